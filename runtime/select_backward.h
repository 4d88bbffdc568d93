// The cost of the backward kernels, for select.h.
#pragma once

#include "qconv/qconv.h"

namespace qconv {

/// As estimate_cost, for a kernel of op grad_input or grad_weight that can serve the layer.
double estimate_backward_cost(const qconv_kernel &kernel, const qconv_layer_config &config);

} // namespace qconv
