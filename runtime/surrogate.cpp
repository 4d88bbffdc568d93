#include "surrogate.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "clones.h"
#include "elementary.h"
#include "quantize.h"

namespace qconv {
namespace {

bool unit_derivative(const qconv_quantizer &quantizer) {
    return derivative_kind(quantizer) == QCONV_IDENTITY;
}

// The derivatives, as generators/quantizers.h has them for inputs.
float approxsign_derivative(float value) {
    const float size = std::fabs(value);
    return size <= 1 ? 2 - 2 * size : 0;
}

float swishsign_derivative(float value, float beta) {
    const float t = std::fabs(beta * value), e = exp_of_negative(-t), s = 1 + e;
    return beta * (2 * s - t * (1 - e)) * (2 * e) / (s * s * s);
}

float steheaviside_derivative(float value) {
    return std::fabs(value) <= 1 ? 1.0F : 0.0F;
}

QCONV_CPU_CLONES void approxsign_derivatives(const float *values, std::size_t count, float *factors) {
    for (std::size_t i = 0; i < count; ++i)
        factors[i] = approxsign_derivative(values[i]);
}

QCONV_CPU_CLONES void swishsign_derivatives(const float *values, std::size_t count, float beta, float *factors) {
    for (std::size_t i = 0; i < count; ++i)
        factors[i] = swishsign_derivative(values[i], beta);
}

QCONV_CPU_CLONES void steheaviside_derivatives(const float *values, std::size_t count, float *factors) {
    for (std::size_t i = 0; i < count; ++i)
        factors[i] = steheaviside_derivative(values[i]);
}

void take_derivatives(const qconv_quantizer &quantizer, std::span<const float> values, float *factors) {
    switch (derivative_kind(quantizer)) {
        case QCONV_APPROXSIGN:
            return approxsign_derivatives(values.data(), values.size(), factors);
        case QCONV_SWISHSIGN:
            return swishsign_derivatives(values.data(), values.size(), quantizer.beta, factors);
        case QCONV_STEHEAVISIDE:
            return steheaviside_derivatives(values.data(), values.size(), factors);
        default:
            std::fill_n(factors, values.size(), 1.0F);
    }
}

} // namespace

bool unit_derivative(const MixedQuantizer &mixed) {
    return unit_derivative(mixed.first) && (mixed.mix == 0 || unit_derivative(mixed.next));
}

qconv_quantizer_kind derivative_kind(const qconv_quantizer &quantizer) {
    const bool derived =
        quantizer.kind == QCONV_APPROXSIGN || quantizer.kind == QCONV_SWISHSIGN || quantizer.kind == QCONV_STEHEAVISIDE;
    return derived ? quantizer.kind : QCONV_IDENTITY;
}

int state_bits(const qconv_layer_config &config) {
    const MixedQuantizer input = input_quantizer(config);
    switch (input.first.kind) {
        case QCONV_SIGN:
        case QCONV_STEHEAVISIDE:
        case QCONV_INPUTDOREFA:
            return representation(input).bits;
        default:
            return 0;
    }
}

bool cancels_gradients(const qconv_layer_config &config) {
    return config.kind == QCONV_LAYER_QCONV1D && !std::isnan(config.gradient_cancellation_threshold);
}

qconv_saved saved(const qconv_layer_config &config) {
    const bool factor = cancels_gradients(config) || !unit_derivative(input_quantizer(config));
    if (!goes(config, QCONV_GRAD_WEIGHT) && !(goes(config, QCONV_GRAD_INPUT) && factor)) return QCONV_SAVES_NOTHING;
    return state_bits(config) > 0 ? QCONV_SAVES_STATE : QCONV_SAVES_INPUT;
}

Surrogate input_surrogate(const qconv_layer_config &config) {
    const bool unit = unit_derivative(input_quantizer(config));
    if (!cancels_gradients(config) && unit) return Surrogate::One;
    if (state_bits(config) > 0) return Surrogate::FromState;
    return unit ? Surrogate::Within : Surrogate::FromInput;
}

Surrogate input_source(const qconv_layer_config &config) {
    const MixedQuantizer input = kernel_input_quantizer(config);
    if (input.mix == 0 && input.first.kind == QCONV_IDENTITY) return Surrogate::One;
    return state_bits(config) > 0 ? Surrogate::FromState : Surrogate::FromInput;
}

bool has_weight_factor(const qconv_layer_config &config) {
    return !unit_derivative(weight_quantizer(config));
}

void take_derivatives(const MixedQuantizer &mixed, std::span<const float> values, float *factors) {
    take_derivatives(mixed.first, values, factors);
    if (mixed.mix == 0) return;
    constexpr std::size_t at_once = 256;
    const auto keep = static_cast<float>(1.0 - double{mixed.mix});
    std::array<float, at_once> next;
    for (std::size_t first = 0; first < values.size(); first += at_once) {
        const std::span<const float> part = values.subspan(first, std::min(at_once, values.size() - first));
        take_derivatives(mixed.next, part, next.data());
        for (std::size_t i = 0; i < part.size(); ++i)
            factors[first + i] = next[i] * mixed.mix + factors[first + i] * keep;
    }
}

} // namespace qconv
