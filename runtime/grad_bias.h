// The gradient of conv1d's bias: sums of gy, in plain C++.
#pragma once

#include <cstddef>
#include <cstdint>

#include "workspace.h"

namespace qconv {

struct GradBiasPlan {
    int workers;
    std::size_t slab; // bytes of workspace of one worker

    std::size_t workspace() const { return static_cast<std::size_t>(workers) * slab; }
};

GradBiasPlan plan_grad_bias(std::int64_t batch, std::int64_t outputs, std::int64_t width_out, int threads);

/// grad_bias[o] = sum of grad_output [batch, outputs, width_out] over batch and width: in double, and in an order that
/// only depends on the sizes.
void sum_grad_bias(const float *grad_output, std::int64_t batch, std::int64_t outputs, std::int64_t width_out,
                   float *grad_bias, CallContext &context);

} // namespace qconv
