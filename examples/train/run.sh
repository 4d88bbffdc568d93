#!/usr/bin/env bash
# Trains with qconv and with bitorch, compares, exports, compiles, and classifies in C++.
# usage: run.sh BUILD_TREE PYTHON [SEED...]    (./dev train calls it)
# The tree holds bin/qconvc and lib/; PYTHON has qconv, bitorch, torch, numpy and matplotlib.
set -euo pipefail

build=${1:?usage: run.sh BUILD_TREE PYTHON [SEED...]}
python=${2:?usage: run.sh BUILD_TREE PYTHON [SEED...]}
shift 2
[ $# -gt 0 ] || set -- 1 2 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$build/train
recordings=$out/aeon/datasets/data/JapaneseVowels
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

mkdir -p "$out"
if [ ! -f "$recordings/JapaneseVowels_TEST.ts" ]; then
    say "fetching the recordings (PyPI's aeon 1.6.0 carries them)"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$out/wheel" aeon==1.6.0
    "$python" - "$out" <<'PYTHON'
import sys, zipfile
from pathlib import Path
out = Path(sys.argv[1])
with zipfile.ZipFile(next((out / "wheel").glob("aeon-*.whl"))) as wheel:
    wheel.extractall(out, [n for n in wheel.namelist() if "/data/JapaneseVowels/" in n])
PYTHON
fi

rm -f "$out"/runs/*.json
first=$1
for seed in "$@"; do
    for layers in qconv bitorch; do
        say "training with $layers, seed $seed"
        export=()
        [ "$layers-$seed" != "qconv-$first" ] || export=(--export "$out/export")
        OMP_NUM_THREADS=1 "$python" -W ignore "$here/train.py" --layers "$layers" --seed "$seed" \
            --recordings "$recordings" --output "$out/runs" "${export[@]}"
    done
done

say "comparing"
"$python" "$here/curves.py" "$out/runs" "$out/curves.svg"

say "compiling the layers of the network trained with qconv, seed $first"
"$build/bin/qconvc" compile "$out/export/layers.json" -o "$out/layers" \
    --target sse41 --target avx2 --target avx512 --target avx512_zen4

say "linking the application"
"$here/../shared/link.sh" "$build" "$here/layers.cpp" "$out/layers" "$out/classify"

say "classifying 370 recordings of nine speakers in C++"
"$out/classify" "$out/export"
