// A kernel's arguments as it gets them, for plain-loop kernels that stand in for the compiled ones.
#pragma once

#include <HalideRuntime.h>

#include <cstdint>
#include <initializer_list>

#include "support/catch.h"

namespace qconv::test {

/// By name: Argument is one of the enums of layout.h.
template <typename Argument>
struct Named {
    void **pointers;

    const halide_buffer_t &buffer(Argument a) const {
        return *static_cast<halide_buffer_t *>(pointers[static_cast<size_t>(a)]);
    }
    int64_t integer(Argument a) const { return *static_cast<int32_t *>(pointers[static_cast<size_t>(a)]); }
    float real(Argument a) const { return *static_cast<float *>(pointers[static_cast<size_t>(a)]); }
};

/// An element, whose type and position must be the buffer's.
template <typename T>
T &at(const halide_buffer_t &buffer, std::initializer_list<int64_t> position) {
    int64_t offset = 0;
    int d = 0;
    bool valid = static_cast<int>(position.size()) == buffer.dimensions && buffer.type.bytes() == sizeof(T);
    for (const int64_t i : position) {
        valid = valid && i >= 0 && i < buffer.dim[d].extent;
        offset += i * buffer.dim[d++].stride;
    }
    if (!valid) FAIL("an index lies outside its buffer");
    return reinterpret_cast<T *>(buffer.host)[offset];
}

} // namespace qconv::test
