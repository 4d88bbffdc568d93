// An allocator for qconv_set_allocator that counts, and fails when told to.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "qconv/qconv.h"
#include "support/catch.h"

namespace qconv::test {

/// Counts what goes through qconv_set_allocator; optionally fails from the n-th allocation on.
struct Counter {
    std::atomic<int64_t> allocations{0}, outstanding{0};
    int64_t fail_from = INT64_MAX;

    static void *allocate(size_t bytes, void *context) {
        auto *self = static_cast<Counter *>(context);
        if (++self->allocations > self->fail_from) return nullptr;
        ++self->outstanding;
        return std::aligned_alloc(64, (bytes + 64) / 64 * 64);
    }
    static void release(void *memory, void *context) {
        if (memory == nullptr) return;
        --static_cast<Counter *>(context)->outstanding;
        std::free(memory);
    }
};

/// Installs the counter for one scope. Layers must die before it.
class Hooked {
public:
    explicit Hooked(Counter &counter) {
        REQUIRE(qconv_set_allocator(Counter::allocate, Counter::release, &counter) == QCONV_OK);
    }
    ~Hooked() { CHECK(qconv_set_allocator(nullptr, nullptr, nullptr) == QCONV_OK); }
};

} // namespace qconv::test
