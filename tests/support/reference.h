// The oracle: quantized 1-D convolution in plain loops, from the formulas of the documentation. It shares no code with
// the runtime or the generators; of qconv it knows the public structs only. Used by the tests and by `qconvc verify`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::reference {

/// max |tanh(v)| over a tensor, in float32: what weightdorefa divides by. 0 for an empty tensor.
float max_abs_tanh(std::span<const float> tensor);

/// One value through a quantizer, evaluated in float32 step by step as bitorch does, then widened.
/// tensor_max is max_abs_tanh of the whole tensor that v belongs to; only weightdorefa reads it.
double quantize(const qconv_quantizer &quantizer, float v, float tensor_max);

/// Output columns for this input width; 0 or less when the window does not fit.
int64_t width_out(const qconv_layer_config &config, int64_t width);

/// y [batch, out_channels, positions]. Where both sides are quantized to levels the sums are exact integers, and the
/// only roundings are the final scaling and the padding term, in double; else every sum is in double. positions: the
/// output columns to compute, in any order; empty means all of them. bias may be null.
std::vector<double> forward(const qconv_layer_config &config, const float *x, int64_t batch, int64_t width,
                            const float *weight, const float *bias, std::span<const int64_t> positions = {});

/// How far a correct kernel of that path may be from forward(), for each of its outputs. With u = 2^-24, n =
/// in_channels / groups * kernel_size, and the sums of absolute values over one window or one output channel:
///   0                                     when every partial result is an integer (or a multiple of 1/256) below 2^24:
///                                         both sides have levels of scale 1 and pad_value is such a multiple;
///   4u|y| + [edge] 16u (1+|pad|) sum|w|   packed paths: an integer, converted, times a rounded scale (3 roundings);
///                                         at edge columns, a rounded pad_delta times a difference of rounded sums;
///   gamma(n + 8) (sum |x||w| + |bias|)    f32 paths: n products summed in any order, and up to 8 roundings of a term
///                                         in its quantizers, their mix and the bias; |x|, |w| of the quantized values,
///                                         2t + 1 for weightdorefa's 2t - 1. gamma(k) = k u / (1 - k u).
std::vector<double> tolerance(const qconv_layer_config &config, qconv_path path, const float *x, int64_t batch,
                              int64_t width, const float *weight, const float *bias,
                              std::span<const int64_t> positions = {});

/// forward() and tolerance() together, at the price of one.
struct Expected {
    std::vector<double> y;
    std::vector<double> tolerance;
};
Expected expect(const qconv_layer_config &config, qconv_path path, const float *x, int64_t batch, int64_t width,
                const float *weight, const float *bias, std::span<const int64_t> positions = {});

/// Index of the first output outside its tolerance (a NaN always is), or -1.
int64_t first_mismatch(const Expected &expected, const float *y);

// ---- backward ------------------------------------------------------------------------------------------------------

/// The surrogate derivative dq(v), in double from the table's formula. 0 where approxsign and steheaviside are flat,
/// NaN included; NaN for swishsign of NaN or infinity, which nothing defines.
double surrogate(const qconv_quantizer &quantizer, float v);

/// Straight-through gradients of a layer, and how far a correct kernel may be from each element:
///   grad_input   x's shape:      [|x| <= threshold] * dqi(x) * sum gy * qw(W), over the outputs an element reaches
///   grad_weight  weight's shape: dqw(W) * sum gy * pad(qi(x), pad_value), over batch and output columns
///   grad_bias    [out_channels]: sum gy, over batch and output columns
/// grad_output is [batch, out_channels, width_out(config, width)]. `elements` are the flat indices to compute, in any
/// order (sample_elements draws some); empty means all. With no NaN threshold, elements beyond it are 0 whatever the
/// surrogate is there. Mixed quantizers mix their surrogates too.
///
/// Tolerance, with u = 2^-24, gamma(k) = k u / (1 - k u), n the number of products in a sum S, and M the sum of their
/// absolute values (2t + 1 for weightdorefa's 2t - 1, and 2 + |pad_value| for pad_value where inputs are binary: a
/// kernel may pad with -1 and add the rest later):
///   sum     0 when every partial result is a multiple of 2^-16 that float32 holds exactly, however S is split up and
///           ordered: both operands are multiples of 2^-p and 2^-q, p, q <= 8, and 4 max|gy| max|operand| n is below
///           2^(24-p-q). So integer gradients and binary or integer operands compare with ==.
///           else gamma(n + 8) M + n 2^-149: n terms in any order, up to 8 roundings in a term's quantizers and their
///           mix, and products too small for float32.
///   factor  0 for sign, steheaviside, DoReFa, progressive_sign and identity; u |f| for approxsign f = 2 - 2|v|; for
///           swishsign, t = beta |v|: (16 + 2t) u beta (2 + t) / (1 + cosh t) + beta 2^-120, since a rounding of cosh's
///           argument is t roundings of cosh, and cosh overflows where f is about 2^-120; 4 u more for a mix.
///   total   |f| sum + factor (|S| + sum) + [f is not 0 or 1] u |f S|.
Expected expect_grad_input(const qconv_layer_config &config, const float *x, const float *grad_output, int64_t batch,
                           int64_t width, const float *weight, std::span<const int64_t> elements = {});
Expected expect_grad_weight(const qconv_layer_config &config, const float *x, const float *grad_output, int64_t batch,
                            int64_t width, const float *weight, std::span<const int64_t> elements = {});
Expected expect_grad_bias(const qconv_layer_config &config, const float *grad_output, int64_t batch, int64_t width);

/// Products behind one element at most: what the oracle's time is proportional to.
int64_t grad_input_products(const qconv_layer_config &config);
int64_t grad_weight_products(const qconv_layer_config &config, int64_t batch, int64_t width);

/// Flat indices into a tensor of `rows` rows of `length` elements, rising: {} (all of them) when there are no more than
/// `most`, else a third of them near each end of rows, where padding shows, the rest anywhere.
std::vector<int64_t> sample_elements(int64_t rows, int64_t length, int64_t most, uint64_t seed);

/// The saved state of x for a layer with a sign-type input quantizer: what forward_training must write, bit by bit
/// (format: layout.h). Plane 1 of an element is surrogate != 0 within the threshold.
std::vector<uint32_t> saved_state(const qconv_layer_config &config, const float *x, int64_t batch, int64_t width);

} // namespace qconv::reference
