#include "memory.h"

#include <atomic>
#include <new>
#include <string>

#include "errors.h"

namespace qconv {
namespace {

void *default_allocate(std::size_t bytes, void * /*context*/) {
    return ::operator new(bytes, std::align_val_t{memory_alignment}, std::nothrow);
}

void default_release(void *memory, void * /*context*/) {
    ::operator delete(memory, std::align_val_t{memory_alignment});
}

struct Allocator {
    qconv_allocate_fn allocate = default_allocate;
    qconv_release_fn release = default_release;
    void *context = nullptr;
};

Allocator allocator;
std::atomic<std::int64_t> outstanding{0};

} // namespace

void *try_allocate(std::size_t bytes) noexcept {
    void *memory = allocator.allocate(align_up(bytes > 0 ? bytes : 1), allocator.context);
    if (memory == nullptr) return nullptr;
    if (reinterpret_cast<std::uintptr_t>(memory) % memory_alignment != 0) {
        allocator.release(memory, allocator.context);
        return nullptr;
    }
    outstanding.fetch_add(1, std::memory_order_relaxed);
    return memory;
}

void *allocate(std::size_t bytes) {
    void *memory = try_allocate(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

void release(void *memory) noexcept {
    if (memory == nullptr) return;
    allocator.release(memory, allocator.context);
    outstanding.fetch_sub(1, std::memory_order_relaxed);
}

void set_allocator(qconv_allocate_fn allocate_fn, qconv_release_fn release_fn, void *context) {
    if ((allocate_fn == nullptr) != (release_fn == nullptr)) {
        throw_invalid(allocate_fn == nullptr ? "allocate" : "release", "NULL", "set both functions, or neither");
    }
    const std::int64_t blocks = outstanding.load();
    if (blocks != 0) {
        throw Error(QCONV_INVALID_ARGUMENT, "the allocator still holds " + std::to_string(blocks) +
                                                " blocks; replace it while no layer exists");
    }
    allocator = allocate_fn == nullptr ? Allocator{} : Allocator{allocate_fn, release_fn, context};
}

} // namespace qconv
