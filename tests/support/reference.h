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

} // namespace qconv::reference
