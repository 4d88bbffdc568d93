# AArch64 Linux with Debian's cross compiler (g++-aarch64-linux-gnu). Kernels come from a qconvc-emit of this machine:
#   cmake -B build/arm64 --toolchain cmake/toolchains/aarch64-linux-gnu.cmake -DQCONV_EMIT=build/release/bin/qconvc-emit
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# Libraries of the target only; programs of this machine; header-only packages of either (Catch2, nlohmann_json, fmt).
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
find_program(QCONV_QEMU_AARCH64 qemu-aarch64)
if(QCONV_QEMU_AARCH64)
    set(CMAKE_CROSSCOMPILING_EMULATOR "${QCONV_QEMU_AARCH64};-L;/usr/aarch64-linux-gnu")
endif()
