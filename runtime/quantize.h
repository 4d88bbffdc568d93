// Quantizers in plain C++: what the weights become, and which values a quantizer can produce.
#pragma once

#include <cstdint>
#include <span>

#include "config.h"
#include "memory.h"
#include "qconv/qconv.h"

namespace qconv {

/// The values a quantizer produces. An integer-valued one of `bits` bits gives a level q in 0..top, top = 2^bits - 1:
///   Symmetric  (2q - top) / top   the sign family (1 bit) and weightdorefa
///   Unsigned   q / top            inputdorefa
///   Real       anything           identity, progressive_sign in training, mixes; bits is 0
struct Representation {
    enum class Values { Real, Symmetric, Unsigned };
    Values values = Values::Real;
    int bits = 0;

    constexpr int top() const { return (1 << bits) - 1; }
    constexpr bool integer() const { return values != Values::Real; }
    /// -1 and +1 alone.
    constexpr bool binary() const { return values == Values::Symmetric && bits == 1; }
    constexpr bool operator==(const Representation &) const = default;
};

Representation representation(const qconv_quantizer &quantizer);
Representation representation(const MixedQuantizer &mixed);
Representation input_representation(const qconv_layer_config &config);
Representation weight_representation(const qconv_layer_config &config);

/// The value of one level, with the float32 rounding of bitorch.
float level_value(Representation representation, int level);
/// The level whose value is nearest to `value`; for padding.
int nearest_level(Representation representation, float value);

/// Whether the layer's input is quantized before its kernels run, which then take the values as they come. weightdorefa
/// looks at a whole tensor, and its levels hang on the last digits of a tanh: all use the one of the C library.
bool quantized_before(const qconv_layer_config &config);
/// The quantizer that its kernels apply to what they get: where it is quantized before, none or, of one bit, sign.
MixedQuantizer kernel_input_quantizer(const qconv_layer_config &config);

/// What the quantizer divides by: max(1 - T, 1e-7) for progressive_sign in training; 2 * max|tanh(v)| over `values` for
/// weightdorefa, where NaNs are passed over and an all-zero tensor gives 1 (every level is then the middle one, where
/// bitorch gives NaN); 1 for the others.
float quantizer_divisor(const qconv_quantizer &quantizer, std::span<const float> values);

/// A quantizer and the tensor it is for, of which it quantizes any part.
class TensorQuantizer {
public:
    TensorQuantizer(const MixedQuantizer &mixed, std::span<const float> tensor);
    /// `scratch` holds, while this lives, the levels that are too costly to find twice.
    TensorQuantizer(const MixedQuantizer &mixed, std::span<const float> tensor, PackScratch &scratch);
    /// Of a tensor that has values of this form already: they stay what they are.
    explicit TensorQuantizer(Representation quantized);

    /// Levels of an integer-valued quantizer. NaN gives level 0, but 1 by sign.
    void levels(std::span<const float> part, std::uint8_t *result) const;
    /// joined[i] = 2 * joined[i] + the level of part[i]; for quantizers of one bit.
    void append_levels(std::span<const float> part, std::uint8_t *joined) const;
    void values(std::span<const float> part, float *result) const;

private:
    struct Side {
        Side(const qconv_quantizer &side_quantizer, std::span<const float> tensor);
        void prepare_levels(std::span<const float> tensor, std::uint8_t *result);
        void levels(std::span<const float> part, std::uint8_t *result) const;
        void values(std::span<const float> part, float *result) const;

        qconv_quantizer quantizer;
        Representation form;
        float divisor;
        float threshold = 0;     // of one bit: the least value of level 1
        bool nan_is_one = false; // of one bit
        bool needs_tanh = false; // levels of several bits of weightdorefa, which may be prepared:
        const float *tensor_start = nullptr;
        const std::uint8_t *prepared = nullptr;
    };

    Side first_, next_;
    float mix_;
    Representation quantized_; // the form of values that are quantized already; else real
};

} // namespace qconv
