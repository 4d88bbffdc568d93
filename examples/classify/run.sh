#!/usr/bin/env bash
# Compiles the layers for every x86 target, links them into the application, and classifies the recordings.
# usage: run.sh BUILD_TREE    (./dev demo calls it; the tree holds bin/qconvc and lib/)
set -euo pipefail

build=${1:?usage: run.sh BUILD_TREE}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$build/demo
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "compiling the layers of examples/classify/layers.json"
"$build/bin/qconvc" compile "$here/layers.json" -o "$out/layers" \
    --target sse41 --target avx2 --target avx512 --target avx512_zen4

say "linking the application"
"$here/../shared/link.sh" "$build" "$here/layers.cpp" "$out/layers" "$out/classify"

say "classifying 370 recordings of nine speakers"
"$out/classify" "$here"
