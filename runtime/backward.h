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
                     const GradInputPlan &plan, const BackwardInput &input, float *grad_input, CallContext &context);

/// The divisors of a quantizer that kernels apply (see quantizer_divisor).
struct Divisors {
    float first;
    float next;
};
Divisors input_divisors(const MixedQuantizer &quantizer);

/// quantizer: kernel_input_quantizer(). factors: the derivative of the weight's quantizer at each weight; NULL unless
/// the layer has_weight_factor().
void call_grad_weight(const qconv_kernel &kernel, const qconv_layer_config &config, const MixedQuantizer &quantizer,
                      const GradWeightPlan &plan, const BackwardInput &input, const Divisors &divisors,
                      const float *factors, float *grad_weight, CallContext &context);

void call_save_state(const qconv_kernel &kernel, const qconv_layer_config &config, const MixedQuantizer &quantizer,
                     const float *x, std::int64_t batch, std::int64_t width, std::uint32_t *state,
                     CallContext &context);

void call_grad_bias(const qconv_kernel &kernel, const qconv_layer_config &config, const float *grad_output,
                    std::int64_t batch, std::int64_t width, float *grad_bias, CallContext &context);

} // namespace qconv
