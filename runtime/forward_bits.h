// Marshals the calls of the kernels between the layers of a network, in the order of BitsArg and ToBitsArg.
#pragma once

#include <cstdint>

#include "pack.h"
#include "plan.h"
#include "qconv/qconv.h"
#include "threshold.h"
#include "workspace.h"

namespace qconv {

struct BitsInput {
    const std::uint32_t *x; // packed signs
    std::int64_t batch;
    std::int64_t width;
};

/// Whether a column of this input reaches over both ends of x and its edges differ: bits_to_bits has no case for that.
bool reaches_over_both_ends(const qconv_layer_config &config, const PackedForward &packed, std::int64_t width);

/// y: float, or packed signs from a kernel that packs them, which takes `limits`. Throws when the kernel reports a
/// failure.
void call_bits_to_float(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                        const Plan &plan, const BitsInput &input, float *y, CallContext &context);
void call_bits_to_bits(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                       const Limits &limits, const Plan &plan, const BitsInput &input, std::uint32_t *y,
                       CallContext &context);

/// How one call of to_bits is cut up.
struct ToBitsPlan {
    int workers;
    std::size_t slab;

    ToBitsPlan(std::int64_t batch, std::int64_t channels, std::int64_t width, int threads);
    std::size_t workspace() const { return static_cast<std::size_t>(workers) * slab; }
};

/// x [batch, channels, width] to packed signs. scratch: plan.workspace() bytes.
void call_to_bits(const qconv_kernel &kernel, const ToBitsRule &rule, const ToBitsPlan &plan, const float *x,
                  std::int64_t batch, std::int64_t channels, std::int64_t width, std::uint32_t *y, void *scratch);

} // namespace qconv
