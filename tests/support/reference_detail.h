// What the two halves of the oracle share; for reference.cpp and reference_backward.cpp alone.
#pragma once

#include <span>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::reference::detail {

inline constexpr double kUnit = 0x1p-24; // half the spacing of float32 just above 1

/// k u / (1 - k u): the relative error that k roundings one after another may add up to.
inline double gamma(double roundings) {
    return roundings * kUnit / (1 - roundings * kUnit);
}

/// A quantized tensor: value = level / top. When `integer`, every level is an integer; else top is 1.
struct Quantized {
    std::vector<double> level;
    std::vector<double> magnitude; // what the roundings inside the quantizer are relative to
    double top = 1;
    bool integer = false;
};

/// (1 - mix) * first(v) + mix * next(v), element by element.
Quantized quantize_tensor(qconv_quantizer first, const qconv_quantizer &next, float mix, std::span<const float> v);

/// The quantized input and weight of a layer: the identity where the layer quantizes nothing.
Quantized quantize_input(const qconv_layer_config &config, std::span<const float> x);
Quantized quantize_weight(const qconv_layer_config &config, std::span<const float> weight);

/// Forward into {-1, +1} whatever the value.
bool is_binary(const qconv_quantizer &q);

} // namespace qconv::reference::detail
