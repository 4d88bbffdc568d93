#include "forward.h"

#include <HalideRuntime.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <new>
#include <string>

#include "config.h"
#include "errors.h"
#include "qconv/layout.h"

namespace qconv {
namespace {

std::int32_t narrow(std::int64_t value) {
    return static_cast<std::int32_t>(value);
}

// A dense buffer on the stack. Kernels take inputs as non-const too; they do not write them.
class Buffer {
public:
    Buffer(const void *host, halide_type_t type, std::initializer_list<std::int64_t> extents) {
        std::int64_t stride = 1;
        for (const std::int64_t extent : extents) {
            dims_[static_cast<std::size_t>(buffer_.dimensions++)] = {0, narrow(extent), narrow(stride)};
            stride *= extent;
        }
        buffer_.host = static_cast<std::uint8_t *>(const_cast<void *>(host));
        buffer_.type = type;
        buffer_.dim = dims_.data();
    }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    halide_buffer_t *get() { return &buffer_; }

private:
    halide_buffer_t buffer_{};
    std::array<halide_dimension_t, 6> dims_;
};

const halide_type_t float_type(halide_type_float, 32);
const halide_type_t int_type(halide_type_int, 32);

Buffer weight_buffer(const qconv_kernel &kernel, const PackedLayer &packed, std::int64_t channels, std::int64_t outputs,
                     std::int64_t taps, std::int64_t groups) {
    const PackedShape &shape = packed.shape;
    const void *host = packed.weight.data();
    switch (kernel.path) {
        case QCONV_PATH_B1B1:
            return {host,
                    halide_type_t(halide_type_uint, static_cast<std::uint8_t>(kernel.word_bits)),
                    {kernel.out_block, shape.steps, shape.rows, kernel.weight_planes, shape.out_blocks, groups}};
        case QCONV_PATH_INT8:
            return {host,
                    halide_type_t(halide_type_int, static_cast<std::uint8_t>(kernel.element_bits)),
                    {kernel.word_bits / kernel.element_bits, kernel.out_block, shape.steps, shape.rows,
                     shape.out_blocks, groups}};
        case QCONV_PATH_F32B1:
            return {host, halide_type_t(halide_type_uint, 8), {kernel.tables, taps, outputs, shape.chunks, groups}};
        case QCONV_PATH_F32F32:
        case QCONV_PATHS:
            break;
    }
    return {host, float_type, {kernel.out_block, taps, channels, shape.out_blocks, groups}};
}

// Columns whose window reaches over the left end are those before edge_left; over the right end, from edge_right on.
struct Edges {
    std::int64_t left, right;
};

Edges edge_columns(const qconv_layer_config &config, std::int64_t width, std::int64_t width_out, float pad_delta) {
    if (pad_delta == 0) return {0, width_out};
    const std::int64_t left = ceil_div(config.pad_left, config.stride);
    const std::int64_t last_start = width - 1 - tap_span(config) + config.pad_left; // of a window inside on the right
    const std::int64_t right = last_start < 0 ? 0 : last_start / config.stride + 1;
    return {std::min(left, width_out), std::min(right, width_out)};
}

// Kernels know the forward of the sign family by one name.
std::int32_t forward_kind(const qconv_quantizer &quantizer) {
    const bool sign = quantizer.kind == QCONV_APPROXSIGN || quantizer.kind == QCONV_SWISHSIGN;
    return sign ? QCONV_SIGN : quantizer.kind;
}

float top_level(const qconv_quantizer &quantizer) {
    const Representation form = representation(quantizer);
    return form.integer() ? static_cast<float>(form.top()) : 1.0F;
}

} // namespace

void call_forward(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedLayer &packed,
                  const MixedQuantizer &quantizer, const Plan &plan, const ForwardInput &input, CallContext &context) {
    const std::int64_t channels = channels_in_group(config);
    const std::int64_t outputs = out_in_group(config);
    const std::int64_t taps = config.kernel_size;
    const std::int64_t groups = config.groups;
    Buffer x(input.x, float_type, {input.width, channels, groups, input.batch});
    Buffer weight = weight_buffer(kernel, packed, channels, outputs, taps, groups);
    Buffer offset(packed.offset.data(), kernel.word_bits > 0 ? int_type : float_type, {outputs, groups});
    Buffer edge(packed.edge.data(), float_type, {taps + 1, outputs, groups});
    Buffer y(input.y, float_type, {plan.width_out, outputs, groups, input.batch});

    const Edges edges = edge_columns(config, input.width, plan.width_out, packed.pad_delta);
    void *user_context = &context;
    std::int32_t kernel_size = narrow(taps);
    std::int32_t stride = narrow(config.stride);
    std::int32_t dilation = narrow(config.dilation);
    std::int32_t pad_left = narrow(config.pad_left);
    std::int32_t tile_width = narrow(plan.tile_width);
    std::int32_t edge_left = narrow(edges.left);
    std::int32_t edge_right = narrow(edges.right);
    std::int32_t pad_level = packed.pad_level;
    std::int32_t dot_factor = packed.dot_factor;
    std::int32_t window_factor = packed.window_factor;
    float scale = packed.scale;
    float pad_delta = packed.pad_delta;
    float pad_value = config.pad_value;
    std::int32_t kind = forward_kind(quantizer.first);
    float levels = top_level(quantizer.first);
    float divisor = input.divisor;
    std::int32_t next_kind = forward_kind(quantizer.next);
    float next_levels = top_level(quantizer.next);
    float next_divisor = input.next_divisor;
    float mix = quantizer.mix;

    std::array<void *, static_cast<std::size_t>(ForwardArg::Count)> arguments{};
    const auto set = [&arguments](ForwardArg argument, void *value) {
        arguments[static_cast<std::size_t>(argument)] = value;
    };
    set(ForwardArg::UserContext, &user_context);
    set(ForwardArg::X, x.get());
    set(ForwardArg::Weight, weight.get());
    set(ForwardArg::Offset, offset.get());
    set(ForwardArg::Edge, edge.get());
    set(ForwardArg::KernelSize, &kernel_size);
    set(ForwardArg::Stride, &stride);
    set(ForwardArg::Dilation, &dilation);
    set(ForwardArg::PadLeft, &pad_left);
    set(ForwardArg::TileWidth, &tile_width);
    set(ForwardArg::EdgeLeft, &edge_left);
    set(ForwardArg::EdgeRight, &edge_right);
    set(ForwardArg::PadLevel, &pad_level);
    set(ForwardArg::DotFactor, &dot_factor);
    set(ForwardArg::WindowFactor, &window_factor);
    set(ForwardArg::Scale, &scale);
    set(ForwardArg::PadDelta, &pad_delta);
    set(ForwardArg::PadValue, &pad_value);
    set(ForwardArg::Quantizer, &kind);
    set(ForwardArg::Levels, &levels);
    set(ForwardArg::Divisor, &divisor);
    set(ForwardArg::Next, &next_kind);
    set(ForwardArg::NextLevels, &next_levels);
    set(ForwardArg::NextDivisor, &next_divisor);
    set(ForwardArg::Mix, &mix);
    set(ForwardArg::Y, y.get());

    const int code = kernel.call(arguments.data());
    if (code == halide_error_code_out_of_memory) throw std::bad_alloc();
    if (code != 0) {
        throw Error(QCONV_INTERNAL, "kernel " + std::string(kernel.name) + "@" + kernel.target + " failed with code " +
                                        std::to_string(code) + ": " + context.error());
    }
}

} // namespace qconv
