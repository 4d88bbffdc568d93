#include "support/guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace qconv::test {
namespace {

constexpr unsigned char kPattern = 0xa5;
constexpr size_t kZone = 4096; // bytes of pattern on each side, where there is room

/// Distance from the inaccessible page. qemu 7.2 faults on the lanes that an AVX masked load leaves out, which a CPU
/// does not read: with QCONV_TEST_EMULATED set, buffers stay a vector away, and only the pattern guards them.
size_t slack() {
    static const size_t bytes = std::getenv("QCONV_TEST_EMULATED") != nullptr ? 64 : 0;
    return bytes;
}

} // namespace

GuardedArena::GuardedArena(size_t capacity_bytes) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    capacity_ = (capacity_bytes + page - 1) / page * page;
    mapped_ = capacity_ + 2 * page;
    void *memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("GuardedArena: mmap failed");
    begin_ = static_cast<unsigned char *>(memory) + page;
    if (mprotect(begin_, capacity_, PROT_READ | PROT_WRITE) != 0) throw std::runtime_error("GuardedArena: mprotect");
}

GuardedArena::~GuardedArena() {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    munmap(begin_ - page, mapped_);
}

void *GuardedArena::place(size_t bytes, size_t alignment, Edge edge) {
    if (bytes + slack() > capacity_) throw std::runtime_error("GuardedArena: buffer larger than the arena");
    buffer_ = begin_ + (edge == Edge::Start ? slack() : (capacity_ - slack() - bytes) / alignment * alignment);
    bytes_ = bytes;
    unsigned char *low = std::max(begin_, buffer_ - std::min<std::ptrdiff_t>(kZone, buffer_ - begin_));
    std::memset(low, kPattern, static_cast<size_t>(buffer_ - low));
    const auto room = static_cast<size_t>(begin_ + capacity_ - (buffer_ + bytes));
    std::memset(buffer_ + bytes, kPattern, std::min(kZone, room));
    return buffer_;
}

float *GuardedArena::place(std::span<const float> values, Edge edge) {
    auto *memory = static_cast<float *>(place(values.size_bytes(), alignof(float), edge));
    if (!values.empty()) std::memcpy(memory, values.data(), values.size_bytes());
    return memory;
}

std::ptrdiff_t GuardedArena::damage() const {
    for (std::ptrdiff_t i = 1; i <= static_cast<std::ptrdiff_t>(kZone) && buffer_ - i >= begin_; ++i) {
        if (buffer_[-i] != kPattern) return -i;
    }
    const unsigned char *end = begin_ + capacity_;
    const unsigned char *after = buffer_ + bytes_;
    for (size_t i = 0; i < kZone && after + i < end; ++i) {
        if (after[i] != kPattern) return static_cast<std::ptrdiff_t>(bytes_ + i);
    }
    return 0;
}

} // namespace qconv::test
