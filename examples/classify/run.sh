#!/usr/bin/env bash
# Compiles the layers for every x86 target, links them into the application, and classifies the recordings.
# usage: run.sh BUILD_TREE    (./dev demo calls it; the tree holds bin/qconvc and lib/)
set -euo pipefail

build=${1:?usage: run.sh BUILD_TREE}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
include=$here/../../runtime/include
out=$build/demo
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "compiling the layers of examples/classify/layers.json"
"$build/bin/qconvc" compile "$here/layers.json" -o "$out/layers" \
    --target sse41 --target avx2 --target avx512 --target avx512_zen4

say "linking the application"
printf 'g++ -std=c++20 -O2 main.cpp network.cpp liblayers_*.a libqconv.a libqconv_halide_runtime_*.a -lpthread -ldl\n'
g++ -std=c++20 -O2 -Wall -Wextra -I"$include" -I"$out/layers" "$here"/main.cpp "$here"/network.cpp \
    "$out"/layers/liblayers_*.a "$build"/lib/libqconv.a "$out"/layers/libqconv_halide_runtime_*.a -lpthread -ldl \
    -o "$out/classify"

say "classifying 370 recordings of nine speakers"
"$out/classify" "$here"
