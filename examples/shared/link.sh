#!/usr/bin/env bash
# Links the application of an example with its compiled layers.
# usage: link.sh BUILD_TREE LAYERS.cpp COMPILED_LAYERS APPLICATION
set -euo pipefail

build=$1 network=$2 layers=$3 application=$4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
printf 'g++ -std=c++20 -O2 classify.cpp network.cpp layers.cpp'
printf ' liblayers_*.a libqconv.a libqconv_halide_runtime_*.a -lpthread -ldl\n'
g++ -std=c++20 -O2 -Wall -Wextra -I"$here" -I"$here/../../runtime/include" -I"$layers" \
    "$here/classify.cpp" "$here/network.cpp" "$network" \
    "$layers"/liblayers_*.a "$build/lib/libqconv.a" "$layers"/libqconv_halide_runtime_*.a -lpthread -ldl -o "$application"
