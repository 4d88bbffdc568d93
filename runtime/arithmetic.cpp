#include "arithmetic.h"

#include <algorithm>
#include <limits>

#include "config.h"
#include "qconv/layout.h"
#include "surrogate.h"

namespace qconv {
namespace {

using Values = Representation::Values;

std::int64_t magnitude(std::int64_t value) {
    return value < 0 ? -value : value;
}

// Vectors of several words of a window are summed in lanes as wide as a word.
bool lanes_fit(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (kernel.vector_words <= 1 || kernel.word_bits >= 32) return true;
    const PackedShape shape = packed_shape(kernel, channels_in_group(config), out_in_group(config), config.kernel_size);
    const std::int64_t products = (std::int64_t{1} << kernel.input_planes) - 1;
    const std::int64_t most = products * ((1 << kernel.weight_planes) - 1) * kernel.word_bits;
    return shape.vectors <= ((std::int64_t{1} << kernel.word_bits) - 1) / most;
}

bool shape_matches(const qconv_kernel &kernel, const qconv_layer_config &config) {
    const auto matches = [](std::int64_t constant, std::int64_t value) { return constant == 0 || constant == value; };
    return matches(kernel.in_channels, config.in_channels) && matches(kernel.out_channels, config.out_channels) &&
           matches(kernel.kernel_size, config.kernel_size) && matches(kernel.stride, config.stride) &&
           matches(kernel.dilation, config.dilation) && matches(kernel.groups, config.groups);
}

// Whether the weight needs elements beyond int8 unless 128 is taken off its levels: 255 levels and more each way.
bool needs_shift(const qconv_kernel &kernel, Representation weight) {
    return kernel.element_bits == 8 && weight.bits == 8;
}

// The packed paths quantize inputs by sign and inputdorefa. weightdorefa, whose tanh costs more than packing gains, is
// left to the float paths.
bool packs_input(const qconv_layer_config &config) {
    return input_representation(config).integer() && input_quantizer(config).first.kind != QCONV_WEIGHTDOREFA;
}

const char *representation_mismatch(const qconv_kernel &kernel, Representation input, Representation weight) {
    switch (kernel.path) {
        case QCONV_PATH_B1B1:
            if (input.bits != kernel.input_planes) return "its input bit-planes are not the layer's";
            if (weight.values != Values::Symmetric || weight.bits != kernel.weight_planes) {
                return "its weight bit-planes are not the layer's";
            }
            return nullptr;
        case QCONV_PATH_INT8:
            if (!weight.integer()) return "it needs an integer-valued weight quantizer";
            if (needs_shift(kernel, weight) && kernel.window_sum == 0) {
                return "8-bit weights need its window sums or 16-bit elements";
            }
            return nullptr;
        case QCONV_PATH_F32B1:
            return weight.binary() ? nullptr : "it needs binary weights";
        case QCONV_PATH_F32F32:
            return nullptr;
        case QCONV_PATHS:
            break;
    }
    return "its path is unknown";
}

// Whether what the threads of a tile share fits the memory for it, all stages of the input counted.
bool tile_fits(const qconv_kernel &kernel, const qconv_layer_config &config) {
    constexpr std::int64_t shared_memory = 48 << 10;                     // what CUDA grants every kernel
    constexpr std::int64_t word = 4, joined_bits = 18, joined_bytes = 5; // of one channel: each doubling; levels, words
    const bool joins = word_taps(kernel) > 1, bits = kernel.path == QCONV_PATH_B1B1;
    const std::int64_t words = ceil_div(channels_in_group(config), kernel.word_channels) * word,
                       position = !joins ? words
                                  : bits ? joined_bits
                                         : joined_bytes,
                       window = kernel.window_sum != 0 ? kernel.width_block * word : 0,
                       positions = tile_positions(kernel, config);
    return positions <= shared_memory && positions * position + window <= shared_memory;
}

// The greatest magnitude of v, and of a.
std::int64_t widest_element(const IntegerArithmetic &arithmetic, std::int64_t weight_top) {
    return std::max(magnitude(arithmetic.element_offset),
                    magnitude(arithmetic.element_factor * weight_top + arithmetic.element_offset));
}
std::int64_t widest_level(const qconv_kernel &kernel, std::int64_t input_top) {
    return std::max<std::int64_t>(input_top, kernel.level_offset);
}

bool short_sums_fit(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (!sums_short(kernel)) return true;
    const std::int64_t product =
        widest_level(kernel, input_representation(config).top()) *
        widest_element(integer_arithmetic(kernel, config), weight_representation(config).top());
    return 2 * short_sum_words * product <= std::numeric_limits<std::int16_t>::max();
}

// What keeps the layer from a kernel of the forward pass.
const char *forward_mismatch(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (kernel.word_bits > 0 && !packs_input(config)) return "it needs a sign or inputdorefa input quantizer";
    const char *reason = representation_mismatch(kernel, input_representation(config), weight_representation(config));
    if (reason != nullptr) return reason;
    if (kernel.word_bits > 0 && word_taps(kernel) > 1 && channels_in_group(config) > kernel.word_channels) {
        return "its words join fewer channels than a group has";
    }
    if (kernel.tile_input != 0 && !tile_fits(kernel, config)) return "a tile of its input exceeds shared memory";
    if (!lanes_fit(kernel, config)) return "the sums of its lanes could overflow";
    if (!short_sums_fit(kernel, config)) return "its 16-bit sums could overflow";
    if (!int32_fits(kernel, config)) return "its int32 sums could overflow";
    return nullptr;
}

} // namespace

std::int64_t tile_positions(const qconv_kernel &kernel, const qconv_layer_config &config) {
    const std::int64_t taps = word_taps(kernel), last_tap = ceil_div(config.kernel_size, taps) * taps - 1;
    return (kernel.width_block - 1) * config.stride + last_tap * config.dilation + 1;
}

IntegerArithmetic integer_arithmetic(const qconv_kernel &kernel, const qconv_layer_config &config) {
    const Representation input = input_representation(config);
    const Representation weight = weight_representation(config);
    const std::int32_t input_top = input.top();
    const std::int32_t weight_top = weight.top();
    const bool signed_input = input.values == Values::Symmetric;
    const bool signed_weight = weight.values == Values::Symmetric;
    const double scale = 1.0 / (double(input_top) * double(weight_top));

    if (kernel.path == QCONV_PATH_B1B1) {
        // A signed input is u / input_top; an unsigned one is (u + input_top) / (2 * input_top).
        return {.element_factor = 2,
                .element_offset = -weight_top,
                .offset_per_weight = signed_input ? 0 : input_top,
                .offset_per_element = std::int64_t{input_top} * weight_top,
                .dot_factor = 1,
                .window_factor = 0,
                .scale = signed_input ? scale : scale / 2};
    }
    // The input is (x_factor * a + x_offset) / input_top, the weight (v_factor * v + v_offset) / weight_top.
    const std::int32_t x_factor = signed_input ? 2 : 1;
    const std::int32_t x_offset = signed_input ? -input_top : 0;
    std::int32_t element_factor = 1, element_offset = 0, v_factor = 1, v_offset = 0;
    if (needs_shift(kernel, weight)) {
        element_offset = -128;
        v_factor = signed_weight ? 2 : 1; // 2q - 255 = 2(v + 128) - 255
        v_offset = signed_weight ? 1 : 128;
    } else if (signed_weight) {
        element_factor = 2;
        element_offset = -weight_top;
    }
    return {.element_factor = element_factor,
            .element_offset = element_offset,
            // Levels stored less by level_offset leave out as much times the sums of v and of 1.
            .offset_per_weight =
                std::int64_t{x_offset} * v_factor + std::int64_t{kernel.level_offset} * x_factor * v_factor,
            .offset_per_element =
                std::int64_t{x_offset} * v_offset + std::int64_t{kernel.level_offset} * x_factor * v_offset,
            .dot_factor = x_factor * v_factor,
            .window_factor = x_factor * v_offset,
            .scale = scale};
}

bool int32_fits(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (kernel.word_bits == 0) return true;
    const IntegerArithmetic arithmetic = integer_arithmetic(kernel, config);
    const std::int64_t input_top = input_representation(config).top();
    const std::int64_t weight_top = weight_representation(config).top();
    // Every term of the sum at its largest, all at once.
    const std::int64_t element = widest_element(arithmetic, weight_top);
    const std::int64_t level = widest_level(kernel, input_top);
    const std::int64_t dot =
        kernel.path == QCONV_PATH_B1B1 ? 2 * input_top * weight_top : arithmetic.dot_factor * level * element;
    const std::int64_t per_element = magnitude(dot) + magnitude(arithmetic.window_factor) * level +
                                     magnitude(arithmetic.offset_per_weight) * element +
                                     magnitude(arithmetic.offset_per_element);
    return window_elements(config) <= std::numeric_limits<std::int32_t>::max() / per_element;
}

const char *mismatch(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (!shape_matches(kernel, config)) return "it was compiled for another shape";
    if (kernel.unit_stride != 0 && config.stride != 1) return "it needs stride 1";
    if (kernel.group_block > 1 && (channels_in_group(config) > 1 || out_in_group(config) > 1)) {
        return "it serves groups of one channel and one output";
    }
    const bool lookup = kernel.path == QCONV_PATH_F32B1;
    switch (kernel.op) {
        case QCONV_OP_FORWARD:
            return goes(config, QCONV_FORWARD) ? forward_mismatch(kernel, config)
                                               : "the layer has no forward direction";
        case QCONV_OP_GRAD_INPUT:
            if (!goes(config, QCONV_GRAD_INPUT)) return "the layer has no grad_input direction";
            return lookup && !weight_representation(config).binary() ? "it needs binary weights" : nullptr;
        case QCONV_OP_GRAD_WEIGHT:
            if (!goes(config, QCONV_GRAD_WEIGHT)) return "the layer has no grad_weight direction";
            return lookup && input_representation(config).bits != 1 ? "it needs inputs of one bit" : nullptr;
        case QCONV_OP_SAVE_STATE:
            if (!goes(config, QCONV_FORWARD)) return "the layer has no forward direction";
            return saved(config) == QCONV_SAVES_STATE ? nullptr : "the layer saves no state";
        case QCONV_OP_TO_BITS:
            return nullptr;
        case QCONV_OP_BITS_TO_BITS:
            if (config.groups > 1 && out_in_group(config) % 32 != 0) return "its words would join two groups";
            return forward_mismatch(kernel, config);
        case QCONV_OP_BITS_TO_FLOAT:
            return forward_mismatch(kernel, config);
        case QCONV_OP_GRAD_BIAS:
            if (config.kind != QCONV_LAYER_CONV1D) return "only conv1d has a bias";
            return goes(config, QCONV_GRAD_WEIGHT) ? nullptr : "the layer has no grad_weight direction";
        case QCONV_OPS:
            break;
    }
    return "its op is unknown";
}

} // namespace qconv
