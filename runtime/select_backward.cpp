#include "select_backward.h"

#include <algorithm>
#include <cmath>

#include "config.h"
#include "cpu_features.h"
#include "lookup_cost.h"
#include "qconv/layout.h"
#include "select.h"
#include "surrogate.h"

namespace qconv {
namespace {

// Instructions of one step of each inner loop, as the compiled kernels have them.
constexpr double transposed_element = 1.5;
constexpr double copy_element = 2;
constexpr double quantize_element = 4;
constexpr double store_output = 4;
constexpr double copied_weight = 2.5; // of the result, one by one
constexpr double turned_weight = 1;   // by squares
constexpr double short_row = 100;     // stages of a channel's row of the input, whatever its length
constexpr double index_row = 700;     // those that make it table indexes
constexpr double position_entry = 3;  // of a table of positions: its vectors are whole lines
constexpr double turned_element = 4;  // of an output or an input of groups side by side
constexpr double whole_line = 1.2;    // of a product there: its vectors are whole lines too
constexpr double multiply_add = 1.1;  // of two registers
constexpr double along_positions = 7; // of two vectors from memory, and its part of adding up lanes
constexpr double device_load = 5.5;   // and its address, on a GPU

struct Sizes {
    double channels, outputs, taps, stride; // of one group
    double groups;
    double reach; // positions that a strip of width_block spans, over those it computes
};

double padded(double count, double block) {
    return std::ceil(count / block) * block;
}

// Work of one column: `stride` positions of the input.
double grad_input_cost(const qconv_kernel &kernel, const Sizes &size, double lanes) {
    const double ends = size.outputs * copy_element + size.channels * size.stride * store_output;
    if (kernel.group_block > 1) {
        const double turned = (size.outputs + size.channels) * turned_element;
        return (ends + turned + size.taps * whole_line) / lanes * padded(size.groups, kernel.group_block) / size.groups;
    }
    if (kernel.path == QCONV_PATH_F32F32) {
        // One channel alone loads the gradients anew for every product.
        const double product = kernel.out_block == 1 ? 2 : 1;
        return (ends + padded(size.channels, kernel.out_block) * size.outputs * size.taps * product) / lanes;
    }
    const LookupWork work{.values = size.outputs,
                          .positions = size.reach,
                          .sums = size.channels,
                          .taps = size.taps,
                          .sum_stores = size.stride};
    return ends / lanes + lookup_cost(kernel, work, lanes);
}

// Work of one output position on a GPU, by what a thread sums at once (schedules/gpu.cpp).
double device_grad_weight_cost(const qconv_kernel &kernel, const Sizes &size) {
    constexpr double outputs = 4, threads = 8; // side by side, of one load, and along channels
    const double channels = kernel.channel_block / threads, taps = kernel.tap_block;
    const bool tiles = kernel.out_block > 1;
    const double loads = tiles ? 1 + std::ceil(channels / outputs) : 1 + taps;
    const double products = tiles ? outputs * channels : taps;
    return padded(size.outputs, kernel.out_block) * padded(size.channels, kernel.channel_block) *
           padded(size.taps, kernel.tap_block) * (1 + device_load * loads / products);
}

// Work of one output position. Of short rows, what each costs at any length counts too; `positions` 0: they are long.
double grad_weight_cost(const qconv_kernel &kernel, const Sizes &size, double positions, double lanes) {
    const bool lookups = kernel.path == QCONV_PATH_F32B1;
    const double outputs = padded(size.outputs, kernel.out_block);
    double cost = size.channels * size.stride * quantize_element / lanes;
    if (positions > 0) {
        const double result = size.channels * size.taps * size.outputs * (lookups ? turned_weight : copied_weight);
        cost += (size.channels * (lookups ? index_row : short_row) + result) / positions;
    }
    if (lookups) {
        // As in lookup_cost, with output channels in the columns' place.
        const double addressed = kernel.out_block > lanes ? lookup : 1.3 * lookup;
        const double build = std::exp2(kernel.table_channels) * position_entry;
        const double sums = size.channels * size.taps * (addressed + add_to_sum / kernel.tables);
        return cost + outputs * (transposed_element + (build + sums) / lanes / kernel.table_channels);
    }
    const double sums =
        outputs * padded(size.channels, kernel.channel_block) * padded(size.taps, kernel.tap_block) / lanes;
    if (kernel.out_block == 1) return cost + sums * along_positions;
    return cost + outputs * transposed_element + sums * multiply_add;
}

} // namespace

double estimate_backward_cost(const qconv_kernel &kernel, const qconv_layer_config &config) {
    const double lanes = find_target(kernel.target)->vector_bits / 32.0;
    const double reach = static_cast<double>(tap_span(config)) / static_cast<double>(config.stride);
    const Sizes size{
        .channels = static_cast<double>(channels_in_group(config)),
        .outputs = static_cast<double>(out_in_group(config)),
        .taps = static_cast<double>(config.kernel_size),
        .stride = static_cast<double>(config.stride),
        .groups = static_cast<double>(config.groups),
        .reach = 1 + reach / kernel.width_block,
    };
    if (kernel.op == QCONV_OP_GRAD_INPUT) {
        const std::int64_t columns = ceil_div(std::min(config.width, max_elements), config.stride);
        const double tile = find_target(kernel.target)->device != DeviceKind::Cpu ? device_tile(kernel) : 1;
        return grad_input_cost(kernel, size, lanes) * tile * whole_blocks(kernel, columns);
    }
    const std::int64_t positions = outputs_expected(config);
    if (find_target(kernel.target)->device != DeviceKind::Cpu) return device_grad_weight_cost(kernel, size);
    return grad_weight_cost(kernel, size, static_cast<double>(positions), lanes) * whole_blocks(kernel, positions);
}

} // namespace qconv
