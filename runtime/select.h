// Which kernel suits a layer best: one cost function for the registry and for `qconvc compile`.
#pragma once

#include <cstdint>

#include "qconv/qconv.h"

namespace qconv {

/// Estimated work of one output column of the layer on this kernel, in vector instructions; +infinity if the kernel
/// cannot serve the layer. Only kernels of one op and target compare.
double estimate_cost(const qconv_kernel &kernel, const qconv_layer_config &config);

/// Columns that the kernel computes, in blocks, over the columns wanted; 1 where these are not known, 0.
double whole_blocks(const qconv_kernel &kernel, std::int64_t columns);

/// On a GPU, the cost of sums by tiles as wide as one warp, beside that of wide ones: a thread loads more for each
/// (bench/results/cuda-static.md).
double device_tile(const qconv_kernel &kernel);

/// Outputs of a row of the expected width; 0: not known.
std::int64_t outputs_expected(const qconv_layer_config &config);

} // namespace qconv
