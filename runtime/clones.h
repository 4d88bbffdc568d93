// Loops worth compiling for more than the CPU that the library is built for.
#pragma once

// Before a function: it is compiled for three levels of x86-64, and the loader takes the best that the CPU has. The
// code in it must give the same results whatever it is compiled for. Sanitizers run too late for the loader's choice.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define QCONV_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QCONV_CPU_CLONES
#endif
