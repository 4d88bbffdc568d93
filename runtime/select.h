// Which kernel suits a layer best: one cost function for the registry and for `qconvc compile`.
#pragma once

#include "qconv/qconv.h"

namespace qconv {

/// Estimated work of one output column of the layer on this kernel, in vector instructions; +infinity if the kernel
/// cannot serve the layer. Only kernels of one op and target compare.
double estimate_cost(const qconv_kernel &kernel, const qconv_layer_config &config);

} // namespace qconv
