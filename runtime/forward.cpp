#include "forward.h"

#include "config.h"
#include "marshal.h"
#include "qconv/layout.h"

namespace qconv {
Buffer weight_buffer(CallContext &context, const qconv_kernel &kernel, const qconv_layer_config &config,
                     const PackedForward &packed) {
    const std::int64_t channels = channels_in_group(config), outputs = out_in_group(config);
    const std::int64_t taps = config.kernel_size, groups = config.groups;
    const PackedShape &shape = packed.shape;
    const void *host = packed.weight.data();
    switch (kernel.path) {
        case QCONV_PATH_B1B1:
            if (vector_words(kernel) > 1) {
                return {context,
                        host,
                        halide_type_t(halide_type_uint, static_cast<std::uint8_t>(kernel.word_bits)),
                        {vector_words(kernel), kernel.out_block, shape.vectors, kernel.weight_planes, shape.out_blocks,
                         groups}};
            }
            return {context,
                    host,
                    halide_type_t(halide_type_uint, static_cast<std::uint8_t>(kernel.word_bits)),
                    {kernel.out_block, shape.steps, shape.rows, kernel.weight_planes, shape.out_blocks, groups}};
        case QCONV_PATH_INT8:
            return {context,
                    host,
                    halide_type_t(halide_type_int, static_cast<std::uint8_t>(kernel.element_bits)),
                    {kernel.word_bits / kernel.element_bits, kernel.out_block, shape.steps, shape.rows,
                     shape.out_blocks, groups}};
        case QCONV_PATH_F32B1:
            return {context, host, byte_type, {kernel.tables, taps, outputs, shape.chunks, groups}};
        case QCONV_PATH_F32F32:
            if (kernel.group_block > 1) {
                return {context, host, float_type, {kernel.group_block, taps, ceil_div(groups, kernel.group_block)}};
            }
            break;
        case QCONV_PATHS:
            break;
    }
    return {context, host, float_type, {kernel.out_block, taps, channels, shape.out_blocks, groups}};
}

void call_forward(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                  const MixedQuantizer &quantizer, const Plan &plan, const ForwardInput &input, CallContext &context) {
    const std::int64_t channels = channels_in_group(config);
    const std::int64_t outputs = out_in_group(config);
    const std::int64_t taps = config.kernel_size;
    const std::int64_t groups = config.groups;
    Buffer x(context, input.x, float_type, {input.width, channels, groups, input.batch});
    Buffer weight = weight_buffer(context, kernel, config, packed);
    Buffer offset(context, packed.offset.data(), kernel.word_bits > 0 ? int_type : float_type, {outputs, groups});
    Buffer edge(context, packed.edge.data(), float_type, {taps + 1, outputs, groups});
    Buffer y(context, input.y, float_type, {plan.width_out, outputs, groups, input.batch});
    const Edges edges = edge_columns(config, input.width, plan.width_out, packed.pad_delta);

    Arguments<ForwardArg> arguments(context);
    arguments.set(ForwardArg::X, x);
    arguments.set(ForwardArg::Weight, weight);
    arguments.set(ForwardArg::Offset, offset);
    arguments.set(ForwardArg::Edge, edge);
    arguments.set(ForwardArg::KernelSize, taps);
    arguments.set(ForwardArg::Stride, config.stride);
    arguments.set(ForwardArg::Dilation, config.dilation);
    arguments.set(ForwardArg::PadLeft, config.pad_left);
    arguments.set(ForwardArg::TileWidth, plan.tile_width);
    arguments.set(ForwardArg::EdgeLeft, edges.left);
    arguments.set(ForwardArg::EdgeRight, edges.right);
    arguments.set(ForwardArg::PadLevel, std::int64_t{packed.pad_level});
    arguments.set(ForwardArg::DotFactor, std::int64_t{packed.dot_factor});
    arguments.set(ForwardArg::WindowFactor, std::int64_t{packed.window_factor});
    arguments.set(ForwardArg::Scale, packed.scale);
    arguments.set(ForwardArg::PadDelta, packed.pad_delta);
    arguments.set(ForwardArg::PadValue, config.pad_value);
    arguments.set_quantizer(ForwardArg::Quantizer, quantizer, input.divisor, input.next_divisor);
    arguments.set(ForwardArg::Y, y);
    arguments.call(kernel);
}

} // namespace qconv
