#include "backward.h"

#include <limits>
#include <span>

#include "config.h"
#include "marshal.h"
#include "qconv/layout.h"
#include "surrogate.h"

namespace qconv {
namespace {

// In place of a tensor that a call lacks: one element of grad_output (layout.h). On devices nothing: our GPU kernels
// read no such tensor, and one by an autoscheduler that did would fail when tuning checks it.
const void *stand_in(const CallContext &context, const BackwardInput &input) {
    return context.device() == nullptr ? input.grad_output : nullptr;
}

// A tensor with the channels of one group and all groups; null if the call lacks it.
Buffer x_buffer(CallContext &context, const qconv_layer_config &config, const float *x, const BackwardInput &input) {
    const std::initializer_list<std::int64_t> extents = {input.width, channels_in_group(config), config.groups,
                                                         input.batch};
    if (x == nullptr) return {context, stand_in(context, input), float_type, extents, {1, 0, 0, 0}};
    return {context, x, float_type, extents};
}

Buffer state_buffer(CallContext &context, const qconv_layer_config &config, const std::uint32_t *state,
                    const BackwardInput &input) {
    const std::initializer_list<std::int64_t> extents = {state_words(input.width), state_planes(state_bits(config)),
                                                         channels_in_group(config), config.groups, input.batch};
    if (state == nullptr) return {context, stand_in(context, input), word_type, extents, {1, 0, 0, 0, 0}};
    return {context, state, word_type, extents};
}

// joined: channels and taps as one dimension.
Buffer weight_buffer(CallContext &context, const qconv_layer_config &config, const float *weight, bool joined) {
    const std::int64_t taps = config.kernel_size, channels = channels_in_group(config);
    return {context,
            weight,
            float_type,
            {joined ? taps * channels : taps, joined ? 1 : channels, out_in_group(config), config.groups}};
}

Buffer grad_output_buffer(CallContext &context, const qconv_layer_config &config, const BackwardInput &input) {
    return {context,
            input.grad_output,
            float_type,
            {width_out(config, input.width), out_in_group(config), config.groups, input.batch}};
}

float threshold(const qconv_layer_config &config) {
    return cancels_gradients(config) ? config.gradient_cancellation_threshold : std::numeric_limits<float>::quiet_NaN();
}

} // namespace

Divisors input_divisors(const MixedQuantizer &quantizer) {
    return {quantizer_divisor(quantizer.first, {}), quantizer_divisor(quantizer.next, {})};
}

void call_grad_input(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedGradInput &packed,
                     const GradInputPlan &plan, const BackwardInput &input, float *grad_input, CallContext &context) {
    const std::int64_t channels = channels_in_group(config);
    const std::int64_t outputs = out_in_group(config);
    const std::int64_t taps = config.kernel_size;
    const Surrogate factor = input_surrogate(config);
    Buffer grad_output = grad_output_buffer(context, config, input);
    const bool lookup = kernel.path == QCONV_PATH_F32B1;
    const void *packed_weight = packed.weight.data();
    Buffer bytes(context, packed_weight, byte_type, {kernel.tables, taps, channels, packed.blocks, config.groups});
    const bool side_by_side = kernel.group_block > 1;
    Buffer floats = side_by_side ? Buffer(context, packed_weight, float_type, {kernel.group_block, taps, packed.blocks})
                                 : Buffer(context, packed_weight, float_type,
                                          {kernel.out_block, taps, outputs, packed.blocks, config.groups});
    Buffer shift(context, packed.taps.shift.data(), int_type, {taps});
    Buffer phase_start(context, packed.taps.phase_start.data(), int_type, {config.stride + 1});
    const bool reads_x = factor == Surrogate::FromInput || factor == Surrogate::Within;
    Buffer x = x_buffer(context, config, reads_x ? input.x : nullptr, input);
    Buffer state = state_buffer(context, config, factor == Surrogate::FromState ? input.state : nullptr, input);
    const std::int64_t width = input.width;
    const std::int64_t stride = config.stride;
    Buffer result(context, grad_input, float_type,
                  {stride, ceil_div(width, stride), channels, config.groups, input.batch},
                  {1, stride, width, width * channels, width * config.in_channels});

    Arguments<GradInputArg> arguments(context);
    arguments.set(GradInputArg::GradOutput, grad_output);
    arguments.set(GradInputArg::Weight, lookup ? bytes : floats);
    arguments.set(GradInputArg::TapShift, shift);
    arguments.set(GradInputArg::PhaseStart, phase_start);
    arguments.set(GradInputArg::X, x);
    arguments.set(GradInputArg::State, state);
    arguments.set(GradInputArg::Stride, config.stride);
    arguments.set(GradInputArg::TileWidth, plan.tile_width);
    arguments.set(GradInputArg::ShiftMin, std::int64_t{packed.taps.shift_min});
    arguments.set(GradInputArg::ShiftMax, std::int64_t{packed.taps.shift_max});
    arguments.set(GradInputArg::Factor, static_cast<std::int64_t>(factor));
    arguments.set(GradInputArg::Threshold, threshold(config));
    arguments.set_derivative(GradInputArg::Quantizer, input_quantizer(config));
    arguments.set(GradInputArg::GradInput, result);
    arguments.call(kernel);
}

void call_grad_weight(const qconv_kernel &kernel, const qconv_layer_config &config, const MixedQuantizer &quantizer,
                      const GradWeightPlan &plan, const BackwardInput &input, const Divisors &divisors,
                      const float *factors, float *grad_weight, CallContext &context) {
    const Surrogate source = input_source(config);
    const bool lookup = kernel.path == QCONV_PATH_F32B1;
    // A lookup kernel pads with level 0 and mends what that differs by.
    const float pad_delta = lookup ? config.pad_value - level_value(input_representation(config), 0) : 0.0F;
    const Edges edges = edge_columns(config, input.width, plan.width_out, pad_delta);
    Buffer grad_output = grad_output_buffer(context, config, input);
    Buffer x = x_buffer(context, config, source != Surrogate::FromState ? input.x : nullptr, input);
    Buffer state = state_buffer(context, config, source == Surrogate::FromState ? input.state : nullptr, input);
    // Where there are no factors, an autoscheduler's kernel may load them all the same, a few elements more than it has
    // need of: the result is there for it.
    const bool lacks_factors = factors == nullptr && context.device() == nullptr;
    Buffer factor = weight_buffer(context, config, lacks_factors ? grad_weight : factors, lookup);
    Buffer result = weight_buffer(context, config, grad_weight, lookup);

    Arguments<GradWeightArg> arguments(context);
    arguments.set(GradWeightArg::GradOutput, grad_output);
    arguments.set(GradWeightArg::X, x);
    arguments.set(GradWeightArg::State, state);
    arguments.set(GradWeightArg::Factor, factor);
    arguments.set(GradWeightArg::KernelSize, config.kernel_size);
    arguments.set(GradWeightArg::Stride, config.stride);
    arguments.set(GradWeightArg::Dilation, config.dilation);
    arguments.set(GradWeightArg::PadLeft, config.pad_left);
    arguments.set(GradWeightArg::TileWidth, plan.tile_width);
    arguments.set(GradWeightArg::TileChannels, plan.tile_channels);
    arguments.set(GradWeightArg::EdgeLeft, edges.left);
    arguments.set(GradWeightArg::EdgeRight, edges.right);
    arguments.set(GradWeightArg::PadDelta, pad_delta);
    arguments.set(GradWeightArg::PadValue, config.pad_value);
    arguments.set(GradWeightArg::Source, static_cast<std::int64_t>(source));
    arguments.set_quantizer(GradWeightArg::Quantizer, quantizer, divisors.first, divisors.next);
    arguments.set(GradWeightArg::HasFactor, std::int64_t{has_weight_factor(config)});
    arguments.set(GradWeightArg::GradWeight, result);
    arguments.call(kernel);
}

void call_save_state(const qconv_kernel &kernel, const qconv_layer_config &config, const MixedQuantizer &quantizer,
                     const float *x, std::int64_t batch, std::int64_t width, std::uint32_t *state,
                     CallContext &context) {
    // Channels of all groups and samples are rows of their own.
    const std::int64_t rows = config.in_channels * batch;
    Buffer input(context, x, float_type, {width, rows});
    Buffer result(context, state, word_type, {state_words(width), state_planes(state_bits(config)), rows});
    Arguments<SaveStateArg> arguments(context);
    arguments.set(SaveStateArg::X, input);
    arguments.set(SaveStateArg::Quantizer, std::int64_t{forward_kind(quantizer.first)});
    arguments.set(SaveStateArg::Levels, top_level(quantizer.first));
    arguments.set(SaveStateArg::Threshold, threshold(config));
    arguments.set(SaveStateArg::State, result);
    arguments.call(kernel);
}

void call_grad_bias(const qconv_kernel &kernel, const qconv_layer_config &config, const float *grad_output,
                    std::int64_t batch, std::int64_t width, float *grad_bias, CallContext &context) {
    Buffer input(context, grad_output, float_type, {width_out(config, width), config.out_channels, batch});
    Buffer result(context, grad_bias, float_type, {config.out_channels});
    Arguments<GradBiasArg> arguments(context);
    arguments.set(GradBiasArg::GradOutput, input);
    arguments.set(GradBiasArg::GradBias, result);
    arguments.call(kernel);
}

} // namespace qconv
