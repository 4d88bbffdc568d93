// What the calls of all kernels share: buffers on the stack, arguments by name, and the failures of a kernel.
#pragma once

#include <HalideRuntime.h>

#include <array>
#include <cstdint>
#include <initializer_list>

#include "qconv/qconv.h"
#include "quantize.h"
#include "surrogate.h"
#include "workspace.h"

namespace qconv {

/// Checked before: the sizes that kernels see fit.
inline std::int32_t narrow(std::int64_t value) {
    return static_cast<std::int32_t>(value);
}

const halide_type_t float_type(halide_type_float, 32);
const halide_type_t int_type(halide_type_int, 32);
const halide_type_t byte_type(halide_type_uint, 8);
const halide_type_t word_type(halide_type_uint, 32);

/// A buffer on the stack, dense unless strides are given. Kernels take inputs as non-const too; they do not write them.
/// Without data the kernel does not read the buffer; it gets an address nevertheless, since Halide would take none as
/// a question for its size. In a call on a device the data is the device's: an array that the layer uploaded, named by
/// its host address, or else what the caller passed for device memory.
class Buffer {
public:
    Buffer(CallContext &context, const void *data, halide_type_t type, std::initializer_list<std::int64_t> extents,
           std::initializer_list<std::int64_t> strides = {});
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer();

    halide_buffer_t *get() { return &buffer_; }

private:
    void place_on_device(const DeviceCall &call, const void *data);

    CallContext &context_;
    halide_buffer_t buffer_{};
    union Dimensions { // the ones in use are constructed; clearing all would take longer
        std::array<halide_dimension_t, 6> all;
        Dimensions() {}
    } dims_;
    bool wrapped_ = false; // the caller's device memory, to be let go of
};

/// Throws when the kernel reports a failure.
void call_kernel(const qconv_kernel &kernel, void **arguments, const CallContext &context);

/// The values of one kernel's arguments, each set once. Argument is one of the enums in layout.h.
template <typename Argument>
class Arguments {
public:
    explicit Arguments(CallContext &context) : context_(context), user_context_(&context) {
        pointers_[0] = &user_context_;
    }
    Arguments(const Arguments &) = delete;
    Arguments &operator=(const Arguments &) = delete;

    void set(Argument argument, Buffer &buffer) { pointers_[index(argument)] = buffer.get(); }
    void set(Argument argument, std::int64_t value) {
        integers_[index(argument)] = narrow(value);
        pointers_[index(argument)] = &integers_[index(argument)];
    }
    void set(Argument argument, float value) {
        reals_[index(argument)] = value;
        pointers_[index(argument)] = &reals_[index(argument)];
    }
    /// The forward side of a mixed quantizer, in seven arguments that start at `first`.
    void set_quantizer(Argument first, const MixedQuantizer &quantizer, float divisor, float next_divisor);
    /// Its backward side, in five.
    void set_derivative(Argument first, const MixedQuantizer &quantizer);

    void call(const qconv_kernel &kernel) { call_kernel(kernel, pointers_.data(), context_); }

private:
    static constexpr auto count = static_cast<std::size_t>(Argument::Count);
    static std::size_t index(Argument argument) { return static_cast<std::size_t>(argument); }

    CallContext &context_;
    void *user_context_;
    std::array<void *, count> pointers_{};
    std::array<std::int32_t, count> integers_;
    std::array<float, count> reals_;
};

/// Columns whose window reaches over the left end of x are those before `left`; over the right end, from `right` on.
struct Edges {
    std::int64_t left, right;
};
/// For kernels that correct the edges by pad_delta; where that is 0 there are none.
Edges edge_columns(const qconv_layer_config &config, std::int64_t width, std::int64_t width_out, float pad_delta);

/// Kernels know the forward of the sign family by one name.
std::int32_t forward_kind(const qconv_quantizer &quantizer);
/// 2^bits - 1 of an integer-valued quantizer.
float top_level(const qconv_quantizer &quantizer);

template <typename Argument>
void Arguments<Argument>::set_quantizer(Argument first, const MixedQuantizer &quantizer, float divisor,
                                        float next_divisor) {
    const auto at = [first](int i) { return static_cast<Argument>(static_cast<int>(first) + i); };
    set(at(0), std::int64_t{forward_kind(quantizer.first)});
    set(at(1), top_level(quantizer.first));
    set(at(2), divisor);
    set(at(3), std::int64_t{forward_kind(quantizer.next)});
    set(at(4), top_level(quantizer.next));
    set(at(5), next_divisor);
    set(at(6), quantizer.mix);
}

template <typename Argument>
void Arguments<Argument>::set_derivative(Argument first, const MixedQuantizer &quantizer) {
    const auto at = [first](int i) { return static_cast<Argument>(static_cast<int>(first) + i); };
    set(at(0), static_cast<std::int64_t>(derivative_kind(quantizer.first)));
    set(at(1), quantizer.first.beta);
    set(at(2), static_cast<std::int64_t>(derivative_kind(quantizer.next)));
    set(at(3), quantizer.next.beta);
    set(at(4), quantizer.mix);
}

} // namespace qconv
