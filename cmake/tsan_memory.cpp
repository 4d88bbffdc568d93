// LLVM's thread sanitizer, with which Halide instruments kernels, calls these in place of C's functions. The library of
// GCC 12 lacks them, and watches C's.
#include <cstddef>
#include <cstring>

extern "C" {
[[gnu::weak]] void *__tsan_memcpy(void *to, const void *from, std::size_t bytes) {
    return std::memcpy(to, from, bytes);
}

[[gnu::weak]] void *__tsan_memmove(void *to, const void *from, std::size_t bytes) {
    return std::memmove(to, from, bytes);
}

[[gnu::weak]] void *__tsan_memset(void *to, int value, std::size_t bytes) {
    return std::memset(to, value, bytes);
}
}
