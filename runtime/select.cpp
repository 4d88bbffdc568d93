#include "select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string_view>

#include "arithmetic.h"
#include "config.h"
#include "cpu_features.h"
#include "lookup_cost.h"
#include "qconv/layout.h"
#include "select_backward.h"

namespace qconv {
namespace {

// Instructions of one step of each inner loop, as the compiled kernels have them.
constexpr double popcount_word = 3; // xor, popcnt, add
constexpr double popcount_bytes =
    8;                              // xor, and, shift, and, two table shuffles, two adds; ARM counts bytes as x86 words
constexpr double popcount_step = 1; // across output channels, beside a popcount: a broadcast, mostly hidden
constexpr double gathered_element = 1.5; // of an input: loaded and inserted, compared, joined
constexpr double scattered_output = 1.5; // of a vector of output channels: extracted, stored
constexpr double pack_element = 2;       // compare, masked or
constexpr double quantize_element = 6;
constexpr double levels_as_float = 8;    // quantize_element, and a division
constexpr double quantize_as_float = 60; // every kind is computed, divisions included, and one kept
constexpr double join_words = 8;         // load, shift, or, and a loop of its own
constexpr double join_bytes = 15;        // the same of four loads, what interleaves them, and the edge columns
constexpr double keep_window = 8;        // of a window's sum: stored, loaded, multiplied, added, in a loop of its own
constexpr double short_stages = 8;       // of rows of one output channel: stages of little work each
constexpr double place_word = 2;         // load and store, to where the words of a window lie together
constexpr double store_output = 4;
constexpr double dot_with_vnni = 1;        // sdot is the same
constexpr double dot_of_long_elements = 2; // 16-bit words: smlal of one half, then of the other
constexpr double dot_without = 1.2;       // multiply and add, but on more ports than FMA: 76 against 57 GMAC/s on Zen 4
constexpr double dot_in_short_sums = 1.2; // the same, of twice as many elements
constexpr double fma_chain = 1.4;         // fewer sums at once than an FMA takes cycles wait for themselves
constexpr double wide_strip = 4;    // what strips of several vectors compute past the end of a row, where no width is
                                    // expected, for one output
constexpr double split_phase = 5;   // of an input: loaded one by one and stored
constexpr double turn_element = 4;  // of an input or an output: loaded, interleaved four times with another, stored
constexpr double keep_element = 3;  // on a GPU: by a kernel of its own, stored and loaded again
constexpr double whole_line = 0.65; // of a product whose vector is a cache line, beside one that loads from anywhere

struct Sizes {
    double channels, outputs, taps, columns; // of one group; columns: input positions per output position
};

// Positions of the input that an output column reads anew, on average.
double positions_per_column(const qconv_layer_config &config) {
    const std::int64_t columns = outputs_expected(config);
    const auto stride = static_cast<double>(config.stride);
    return columns < 1 ? stride : stride + static_cast<double>(tap_span(config) + 1) / static_cast<double>(columns);
}

// Of a kernel with vectors across output channels, one position at a time. `popcounts` of one position.
double across_cost(const qconv_kernel &kernel, const qconv_layer_config &config, const Sizes &size, double popcounts,
                   double popcount, double vector_bits) {
    const double elements = size.channels * positions_per_column(config) * kernel.input_planes;
    return popcounts * (popcount + popcount_step) / (vector_bits / kernel.word_bits) + elements * gathered_element +
           size.outputs * scattered_output;
}

double word_cost(const qconv_kernel &kernel, const qconv_layer_config &config, const Sizes &size,
                 const PackedShape &packed, double vector_bits) {
    const double padded_outputs = static_cast<double>(packed.out_blocks * kernel.out_block);
    const double words = static_cast<double>(packed.vectors * vector_words(kernel));
    const double word_lanes = vector_bits / kernel.word_bits;
    const double float_lanes = vector_bits / 32;
    if (kernel.path == QCONV_PATH_INT8) {
        const double dot = sums_short(kernel)         ? dot_in_short_sums
                           : kernel.element_bits == 8 ? dot_with_vnni
                           : kernel.word_bits == 16   ? dot_of_long_elements
                                                      : dot_without;
        double cost = words * padded_outputs * dot / word_lanes;
        cost += size.channels * size.columns * quantize_element / float_lanes;
        if (kernel.window_sum != 0) cost += (words * dot + keep_window) / word_lanes;
        if (word_taps(kernel) > 1) cost += size.columns * join_bytes / word_lanes;
        return cost;
    }
    const double planes = kernel.input_planes;
    const bool arm = std::string_view(find_target(kernel.target)->halide_target).starts_with("arm");
    const double popcount = kernel.word_bits == 8 && !arm ? popcount_bytes : popcount_word;
    const double popcounts = words * padded_outputs * planes * kernel.weight_planes;
    if (across_outputs(kernel)) return across_cost(kernel, config, size, popcounts, popcount, vector_bits);
    double cost = popcounts * popcount / word_lanes;
    const bool packs = kernel.op == QCONV_OP_FORWARD; // else the input comes packed
    if (packs) cost += size.channels * size.columns * planes * pack_element / float_lanes;
    if (planes > 1) cost += size.channels * size.columns * quantize_element / float_lanes;
    if (kernel.vector_words > 1) cost += words * planes * place_word / word_lanes;
    const double doublings = std::bit_width(static_cast<unsigned>(word_taps(kernel))) - 1;
    cost += doublings * size.columns * planes * join_words / word_lanes;
    if (packs && kernel.out_block == 1) cost += short_stages / float_lanes;
    return cost;
}

double float_cost(const qconv_kernel &kernel, const qconv_layer_config &config, const Sizes &size,
                  const PackedShape &packed, double vector_bits) {
    const double lanes = vector_bits / 32;
    const MixedQuantizer quantizer = input_quantizer(config);
    const bool simple =
        quantizer.mix == 0 && (quantizer.first.kind == QCONV_IDENTITY || input_representation(config).binary());
    const bool leveled = quantizer.mix == 0 && quantizer.first.kind == QCONV_INPUTDOREFA;
    const double element = simple ? pack_element : leveled ? levels_as_float : quantize_as_float;
    const double split = config.stride > 1 && kernel.group_block <= 1 ? split_phase : 0;
    const double input = size.channels * size.columns * (element + split) / lanes;
    if (kernel.group_block > 1) {
        const double groups = static_cast<double>(config.groups), block = kernel.group_block;
        const double padded = std::ceil(groups / block) * block / groups;
        return padded * (input + (size.columns + 1) * turn_element / lanes + size.taps * whole_line / lanes);
    }
    if (kernel.path == QCONV_PATH_F32F32) {
        const double padded_outputs = static_cast<double>(packed.out_blocks * kernel.out_block);
        const bool few = kernel.out_block * kernel.width_block < 4 * lanes,
                   wide = kernel.width_block > 2 * lanes && outputs_expected(config) == 0;
        // One output at a time loads the inputs anew for every product.
        const double loads = kernel.out_block == 1 && size.outputs > 1 ? 2 : 1;
        const double sums = padded_outputs * size.channels * size.taps * loads * (few ? fma_chain : 1);
        return input + (sums + (wide ? padded_outputs * wide_strip : 0)) / lanes;
    }
    // A table spans the taps' reach beyond its strip of width_block positions.
    const double reach = 1 + static_cast<double>(tap_span(config)) / kernel.width_block;
    const LookupWork work{.values = size.channels,
                          .positions = std::max(reach, size.columns),
                          .sums = size.outputs,
                          .taps = size.taps,
                          .sum_stores = 1};
    return input + lookup_cost(kernel, work, lanes);
}

// On a GPU, what preparing the input costs besides doing so once: see tile_input.
double device_input_cost(const qconv_kernel &kernel, const qconv_layer_config &config, double input,
                         const PackedShape &packed) {
    if (kernel.tile_input == 0) return input * keep_element;
    const double tile = static_cast<double>(kernel.width_block * config.stride);
    const double times =
        static_cast<double>(tile_positions(kernel, config)) / tile * static_cast<double>(packed.out_blocks);
    return input * pack_element * (times - 1);
}

} // namespace

double device_tile(const qconv_kernel &kernel) {
    constexpr int warp = 32;
    if (kernel.width_block > warp) return 1;
    return kernel.path == QCONV_PATH_B1B1 ? 1.13 : kernel.path == QCONV_PATH_INT8 ? 1.9 : 1.65;
}

double whole_blocks(const qconv_kernel &kernel, std::int64_t columns) {
    if (columns < 1) return 1;
    return static_cast<double>(ceil_div(columns, kernel.width_block) * kernel.width_block) /
           static_cast<double>(columns);
}

std::int64_t outputs_expected(const qconv_layer_config &config) {
    if (config.width < 1 || config.width > max_elements) return 0;
    const std::int64_t room = config.width + config.pad_left + config.pad_right - tap_span(config);
    return room < 1 ? 0 : (room - 1) / config.stride + 1;
}

double estimate_cost(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (mismatch(kernel, config) != nullptr) return std::numeric_limits<double>::infinity();
    // One a target:
    if (kernel.op == QCONV_OP_SAVE_STATE || kernel.op == QCONV_OP_TO_BITS || kernel.op == QCONV_OP_GRAD_BIAS) return 1;
    if (kernel.op == QCONV_OP_GRAD_INPUT || kernel.op == QCONV_OP_GRAD_WEIGHT)
        return estimate_backward_cost(kernel, config);
    const double vector_bits = find_target(kernel.target)->vector_bits;
    const Sizes size{
        .channels = static_cast<double>(channels_in_group(config)),
        .outputs = static_cast<double>(out_in_group(config)),
        .taps = static_cast<double>(config.kernel_size),
        .columns = static_cast<double>(config.stride),
    };
    const PackedShape packed =
        packed_shape(kernel, channels_in_group(config), out_in_group(config), config.kernel_size);
    const double blocks = whole_blocks(kernel, outputs_expected(config));
    double sums = kernel.word_bits > 0 ? word_cost(kernel, config, size, packed, vector_bits)
                                       : float_cost(kernel, config, size, packed, vector_bits);
    if (find_target(kernel.target)->device != DeviceKind::Cpu) {
        sums *= device_tile(kernel);
        sums += device_input_cost(kernel, config, size.channels * size.columns, packed) / (vector_bits / 32);
    }
    // A stride-1 layer runs on a kernel for any stride too, but that one keeps a copy of its input split by phase.
    const double copied = kernel.op == QCONV_OP_FORWARD ? size.channels : size.channels / kernel.word_bits;
    const double copy = kernel.unit_stride == 0 && config.stride == 1 ? copied * 0.1 : 0;
    const double padded_outputs = static_cast<double>(packed.out_blocks * kernel.out_block);
    return (sums + copy + padded_outputs * store_output / (vector_bits / 32)) * blocks;
}

} // namespace qconv
