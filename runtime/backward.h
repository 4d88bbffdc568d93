// Marshals one call of a training kernel: buffers and scalars in the order of GradInputArg, GradWeightArg,
// SaveStateArg, GradBiasArg.
#pragma once

#include <cstdint>

#include "pack_grad_input.h"
#include "plan_backward.h"
#include "qconv/qconv.h"
#include "quantize.h"
#include "workspace.h"

namespace qconv {

/// What backward gets of a batch. x and state may be NULL where the layer's surrogates do not read them.
struct BackwardInput {
    const float *x;
    const std::uint32_t *state;
    const float *grad_output;
    std::int64_t batch;
    std::int64_t width;
};

// All throw when the kernel reports a failure.

void call_grad_input(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedGradInput &packed,
                     const MixedQuantizer &quantizer, const GradInputPlan &plan, const BackwardInput &input,
                     float *grad_input, CallContext &context);

/// What grad_weight needs besides the batch: the divisors of the input's quantizer (see quantizer_divisor), and the
/// float weights, NULL unless the weight's surrogate reads them.
struct GradWeightExtra {
    float divisor;
    float next_divisor;
    const float *weight;
};

void call_grad_weight(const qconv_kernel &kernel, const qconv_layer_config &config, const GradWeightPlan &plan,
                      const BackwardInput &input, const GradWeightExtra &extra, float *grad_weight,
                      CallContext &context);

void call_save_state(const qconv_kernel &kernel, const qconv_layer_config &config, const MixedQuantizer &quantizer,
                     const float *x, std::int64_t batch, std::int64_t width, std::uint32_t *state,
                     CallContext &context);

void call_grad_bias(const qconv_kernel &kernel, const qconv_layer_config &config, const float *grad_output,
                    std::int64_t batch, std::int64_t width, float *grad_bias, CallContext &context);

} // namespace qconv
