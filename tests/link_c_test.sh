#!/bin/sh
# The C example on another machine's CPU: its layer compiled here, linked by a cross compiler, run by an emulator.
#   link_c_test.sh QCONVC CC BUILD TARGET PLATFORM QEMU CPU
set -eu
qconvc=$1 cc=$2 build=$3 target=$4 platform=$5 qemu=$6 cpu=$7
source=$(cd "$(dirname "$0")/.." && pwd)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/prefix"
cp -r "$source/runtime/include" "$folder/prefix/include"
ln -s "$build/lib" "$folder/prefix/lib"
cp -r "$source/examples/link_c" "$folder/example"
make -s -C "$folder/example" QCONV="$folder/prefix" QCONVC="$qconvc" CC="$cc" TARGET="$target" PLATFORM="$platform" \
    EMULATOR="$qemu -cpu $cpu" clean run
# A CPU without its features is told apart, not sent into an illegal instruction.
if [ "$target" = arm64_dotprod ]; then
    ! "$qemu" -cpu cortex-a53 "$folder/example/link_c" 2>"$folder/refusal"
    grep -q 'lacks asimddp' "$folder/refusal"
fi
