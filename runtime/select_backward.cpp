#include "select_backward.h"

#include <algorithm>
#include <cmath>

#include "config.h"
#include "cpu_features.h"
#include "lookup_cost.h"
#include "qconv/layout.h"
#include "surrogate.h"

namespace qconv {
namespace {

// Instructions of one step of each inner loop, as the compiled kernels have them.
constexpr double transposed_element = 1.5;
constexpr double copy_element = 2;
constexpr double quantize_element = 4;
constexpr double store_output = 4;

struct Sizes {
    double channels, outputs, taps, stride; // of one group
    double reach;                           // positions that a strip of width_block spans, over those it computes
};

double padded(double count, double block) {
    return std::ceil(count / block) * block;
}

// Work of one column: `stride` positions of the input.
double grad_input_cost(const qconv_kernel &kernel, const Sizes &size, double lanes) {
    const double ends = size.outputs * copy_element + size.channels * size.stride * store_output;
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

// Work of one output position.
double grad_weight_cost(const qconv_kernel &kernel, const Sizes &size, double lanes) {
    const double outputs = padded(size.outputs, kernel.out_block);
    const double input = size.channels * size.stride * quantize_element / lanes;
    if (kernel.path == QCONV_PATH_F32F32) {
        const double sums =
            outputs * padded(size.channels, kernel.channel_block) * padded(size.taps, kernel.tap_block) / lanes;
        // Vectors along positions load both factors anew for every product, and add up their lanes in the end.
        if (kernel.out_block == 1) return input + sums * 3;
        return input + outputs * transposed_element + sums;
    }
    const double build = outputs * std::exp2(kernel.table_channels) * table_entry / lanes;
    const double sums = size.channels * size.taps * outputs * lookup / lanes;
    return input + outputs * transposed_element + (build + sums) / kernel.table_channels;
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
        .reach = 1 + reach / kernel.width_block,
    };
    return kernel.op == QCONV_OP_GRAD_INPUT ? grad_input_cost(kernel, size, lanes)
                                            : grad_weight_cost(kernel, size, lanes);
}

} // namespace qconv
