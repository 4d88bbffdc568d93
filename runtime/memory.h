// Memory of layers, packed weights and workspaces: everything that qconv_set_allocator replaces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "qconv/qconv.h"

namespace qconv {

/// Alignment of every block, and of the blocks kernels get: a cache line, and the widest vector.
constexpr std::size_t memory_alignment = 64;

constexpr std::size_t align_up(std::size_t bytes) {
    return (bytes + memory_alignment - 1) / memory_alignment * memory_alignment;
}

/// NULL when there is no memory, or when a replaced allocator returns a misaligned block.
void *try_allocate(std::size_t bytes) noexcept;
/// Throws std::bad_alloc where try_allocate gives NULL.
void *allocate(std::size_t bytes);
void release(void *memory) noexcept;

/// Both NULL restore the default. Throws while a block is outstanding: another allocator could not release it.
void set_allocator(qconv_allocate_fn allocate, qconv_release_fn release, void *context);

/// An owned block.
class Memory {
public:
    Memory() = default;
    explicit Memory(std::size_t bytes) : data_(allocate(bytes)), bytes_(bytes) {}
    Memory(Memory &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Memory &operator=(Memory &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Memory() { release(data_); }

    void *data() const { return data_; }
    std::size_t bytes() const { return bytes_; }
    /// The caller takes over releasing the block.
    void disown() { data_ = nullptr; }
    template <typename T>
    T *as() const {
        return static_cast<T *>(data_);
    }

private:
    void *data_ = nullptr;
    std::size_t bytes_ = 0;
};

/// Memory for what is in the making, kept so that packing again allocates nothing.
class PackScratch {
public:
    /// `count` elements of T; what it gave before is invalid then.
    template <typename T>
    T *take(std::int64_t count) {
        const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
        if (memory_.bytes() < bytes) memory_ = Memory(bytes);
        return memory_.as<T>();
    }

private:
    Memory memory_;
};

} // namespace qconv
