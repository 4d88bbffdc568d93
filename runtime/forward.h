// Marshals one call of a forward kernel: buffers and scalars in the order of ForwardArg.
#pragma once

#include <cstdint>

#include "marshal.h"
#include "pack.h"
#include "plan.h"
#include "qconv/qconv.h"
#include "quantize.h"
#include "workspace.h"

namespace qconv {

struct ForwardInput {
    const float *x;
    float *y;
    std::int64_t batch;
    std::int64_t width;
    float divisor; // of the first and the second input quantizer, see quantizer_divisor
    float next_divisor;
};

/// The packed weights as a kernel of the forward pass takes them.
Buffer weight_buffer(CallContext &context, const qconv_kernel &kernel, const qconv_layer_config &config,
                     const PackedForward &packed);

/// Throws when the kernel reports a failure.
void call_forward(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                  const MixedQuantizer &quantizer, const Plan &plan, const ForwardInput &input, CallContext &context);

} // namespace qconv
