// Between two layers of a network: the sign that the next layer takes of scale * y + shift, as a threshold on y.
#pragma once

#include <cstdint>
#include <span>

#include "config.h"
#include "memory.h"
#include "pack.h"
#include "qconv/qconv.h"

namespace qconv {

/// scale * y + shift, channel by channel; empty for 1 and 0.
struct Affine {
    std::span<const float> scale, shift;

    float scale_of(std::int64_t channel) const {
        return scale.empty() ? 1.0F : scale[static_cast<std::size_t>(channel)];
    }
    float shift_of(std::int64_t channel) const {
        return shift.empty() ? 0.0F : shift[static_cast<std::size_t>(channel)];
    }
};

/// What PyTorch's BatchNorm1d holds, each [channels]; weight and bias may be NULL, for 1 and 0.
struct BatchNorm {
    const float *mean, *variance, *weight, *bias;
    double epsilon;
};
void fold_batch_norm(std::int64_t channels, const BatchNorm &norm, float *scale, float *shift);

/// A quantizer of one bit: 1 where v >= threshold, or, if strict, where v > threshold.
struct Step {
    float threshold;
    bool strict;
};
/// The input quantizer of a layer whose input_representation() has one bit.
Step input_step(const qconv_layer_config &config);

/// What to_bits needs (layout.h). Bits are those of the exact scale * y + shift; NaN gives what the quantizer gives.
struct ToBitsRule {
    Memory rule;
    Memory flip;
    std::int64_t words = 0;
};
ToBitsRule make_rule(std::int64_t channels, const Affine &affine, const Step &step);

/// What bits_to_bits needs besides the weights (layout.h). Bits are those of the exact scale * y + shift.
struct Limits {
    Memory limit;
    Memory flip;
    std::int64_t cases = 0; // 1, or 2 * kernel_size + 1 where edge columns differ
};
/// packed: the weights of this layer for this kernel.
Limits make_limits(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                   const Affine &affine, const Step &step);

} // namespace qconv
