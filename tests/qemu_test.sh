#!/bin/sh
# Runs the kernel tests on an emulated CPU whose best target is TARGET.
#   qemu_test.sh QEMU CPU TARGET QCONV_TESTS C_API_TEST
set -eu
qemu=$1 cpu=$2 target=$3 tests=$4 c_api=$5

export QCONV_TEST_THIN=1                  # fewer shapes: emulation is some 30 times slower
export QCONV_TEST_EMULATED=1              # see support/guard.cpp
export QCONV_TEST_EXPECT_TARGET="$target" # registry_test.cpp and forward_test.cpp check that dispatch stops there

"$qemu" -cpu "$cpu" "$tests" "forward: $target,forward: best kernel,registry: the best target of this CPU"
"$qemu" -cpu "$cpu" "$tests" "backward: $target *"
"$qemu" -cpu "$cpu" "$c_api"
