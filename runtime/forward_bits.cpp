#include "forward_bits.h"

#include <algorithm>

#include "config.h"
#include "forward.h"
#include "marshal.h"
#include "qconv/layout.h"

namespace qconv {
namespace {

// `limit` and `flip` may stand for nothing: a kernel that writes floats reads neither.
void call_bits(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
               const Plan &plan, const BitsInput &input, Buffer &limit, Buffer &flip, Buffer &y, CallContext &context) {
    const std::int64_t outputs = out_in_group(config);
    Buffer x(context, input.x, word_type, {input.width, sign_words(config.in_channels), input.batch});
    Buffer weight = weight_buffer(context, kernel, config, packed);
    Buffer offset(context, packed.offset.data(), int_type, {outputs, config.groups});
    Buffer edge(context, packed.edge.data(), float_type, {config.kernel_size + 1, outputs, config.groups});
    const Edges edges = edge_columns(config, input.width, plan.width_out, packed.pad_delta);

    Arguments<BitsArg> arguments(context);
    arguments.set(BitsArg::X, x);
    arguments.set(BitsArg::Weight, weight);
    arguments.set(BitsArg::Offset, offset);
    arguments.set(BitsArg::Edge, edge);
    arguments.set(BitsArg::Limit, limit);
    arguments.set(BitsArg::Flip, flip);
    arguments.set(BitsArg::KernelSize, config.kernel_size);
    arguments.set(BitsArg::Stride, config.stride);
    arguments.set(BitsArg::Dilation, config.dilation);
    arguments.set(BitsArg::Channels, channels_in_group(config));
    arguments.set(BitsArg::PadLeft, config.pad_left);
    arguments.set(BitsArg::TileWidth, plan.tile_width);
    arguments.set(BitsArg::EdgeLeft, edges.left);
    arguments.set(BitsArg::EdgeRight, edges.right);
    arguments.set(BitsArg::PadLevel, std::int64_t{packed.pad_level});
    arguments.set(BitsArg::Scale, packed.scale);
    arguments.set(BitsArg::PadDelta, packed.pad_delta);
    arguments.set(BitsArg::Y, y);
    arguments.call(kernel);
}

} // namespace

bool reaches_over_both_ends(const qconv_layer_config &config, const PackedForward &packed, std::int64_t width) {
    const Edges edges = edge_columns(config, width, width_out(config, width), packed.pad_delta);
    return edges.left > edges.right;
}

void call_bits_to_float(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                        const Plan &plan, const BitsInput &input, float *y, CallContext &context) {
    Buffer limit(context, nullptr, int_type, {1, 1, 1});
    Buffer flip(context, nullptr, word_type, {1, 1});
    Buffer result(context, y, float_type, {plan.width_out, out_in_group(config), config.groups, input.batch});
    call_bits(kernel, config, packed, plan, input, limit, flip, result, context);
}

void call_bits_to_bits(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                       const Limits &limits, const Plan &plan, const BitsInput &input, std::uint32_t *y,
                       CallContext &context) {
    const std::int64_t words = sign_words(out_in_group(config));
    const std::int64_t lanes = packed.shape.out_blocks * kernel.out_block;
    Buffer limit(context, limits.limit.data(), int_type, {lanes, limits.cases, config.groups});
    Buffer flip(context, limits.flip.data(), word_type, {words, config.groups});
    Buffer result(context, y, word_type, {plan.width_out, words, config.groups, input.batch});
    call_bits(kernel, config, packed, plan, input, limit, flip, result, context);
}

ToBitsPlan::ToBitsPlan(std::int64_t batch, std::int64_t channels, std::int64_t width, int threads)
    : slab(slab_bytes(0)) {
    // Memory sets the pace: what takes longer to read than to wake a thread.
    constexpr double elements_per_worker = 100'000;
    const double elements = static_cast<double>(batch) * static_cast<double>(channels) * static_cast<double>(width);
    workers = static_cast<int>(std::clamp(elements / elements_per_worker, 1.0, static_cast<double>(threads)));
}

void call_to_bits(const qconv_kernel &kernel, const ToBitsRule &rule, const ToBitsPlan &plan, const float *x,
                  std::int64_t batch, std::int64_t channels, std::int64_t width, std::uint32_t *y, void *scratch) {
    CallContext context(scratch, plan.slab, plan.workers);
    Buffer input(context, x, float_type, {width, channels, batch});
    Buffer rules(context, rule.rule.data(), float_type, {2, rule.words * 32});
    Buffer flip(context, rule.flip.data(), word_type, {rule.words});
    Buffer result(context, y, word_type, {width, rule.words, batch});
    Arguments<ToBitsArg> arguments(context);
    arguments.set(ToBitsArg::X, input);
    arguments.set(ToBitsArg::Rule, rules);
    arguments.set(ToBitsArg::Flip, flip);
    arguments.set(ToBitsArg::Y, result);
    arguments.call(kernel);
}

} // namespace qconv
