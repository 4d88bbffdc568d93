#include "quantize.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.h"

namespace qconv {
namespace {

using Values = Representation::Values;

// Half to even, as the default rounding mode has it; NaN gives 0.
std::uint8_t round_level(float scaled, int top) {
    const float rounded = std::nearbyint(scaled);
    if (!(rounded > 0)) return 0;
    return static_cast<std::uint8_t>(std::min(rounded, static_cast<float>(top)));
}

float hardtanh(float value) {
    return std::isnan(value) ? value : std::clamp(value, -1.0F, 1.0F);
}

// Calls use(function from a value to its level): one loop a kind, which the compiler can turn into vectors.
template <typename Use>
void with_level(const qconv_quantizer &quantizer, float divisor, Use use) {
    const int top = representation(quantizer).top();
    const auto scale = static_cast<float>(top);
    switch (quantizer.kind) {
        case QCONV_INPUTDOREFA:
            return use([=](float v) { return round_level(v > 0 ? std::min(v, 1.0F) * scale : 0.0F, top); });
        case QCONV_WEIGHTDOREFA:
            return use([=](float v) { return round_level((std::tanh(v) / divisor + 0.5F) * scale, top); });
        case QCONV_STEHEAVISIDE:
            return use([](float v) { return static_cast<std::uint8_t>(v > 0 ? 1 : 0); });
        default:
            return use([](float v) { return static_cast<std::uint8_t>(v < 0 ? 0 : 1); });
    }
}

// The same for the quantized value itself.
template <typename Use>
void with_value(const qconv_quantizer &quantizer, float divisor, Use use) {
    const Representation form = representation(quantizer);
    if (form.integer()) {
        with_level(quantizer, divisor, [&](auto level) { use([=](float v) { return level_value(form, level(v)); }); });
    } else if (quantizer.kind == QCONV_PROGRESSIVE_SIGN) {
        use([=](float v) { return hardtanh(v / divisor); });
    } else {
        use([](float v) { return v; });
    }
}

} // namespace

Representation representation(const qconv_quantizer &quantizer) {
    switch (quantizer.kind) {
        case QCONV_SIGN:
        case QCONV_APPROXSIGN:
        case QCONV_SWISHSIGN:
        case QCONV_STEHEAVISIDE:
            return {Values::Symmetric, 1};
        case QCONV_INPUTDOREFA:
            return {Values::Unsigned, quantizer.bits};
        case QCONV_WEIGHTDOREFA:
            return {Values::Symmetric, quantizer.bits};
        case QCONV_PROGRESSIVE_SIGN:
            return quantizer.training != 0 ? Representation{} : Representation{Values::Symmetric, 1};
        case QCONV_IDENTITY:
        case QCONV_QUANTIZER_KINDS:
            break;
    }
    return {};
}

Representation representation(const MixedQuantizer &mixed) {
    return mixed.mix == 0 ? representation(mixed.first) : Representation{};
}

Representation input_representation(const qconv_layer_config &config) {
    return representation(input_quantizer(config));
}

Representation weight_representation(const qconv_layer_config &config) {
    return representation(weight_quantizer(config));
}

float level_value(Representation representation, int level) {
    const float share = static_cast<float>(level) / static_cast<float>(representation.top());
    return representation.values == Values::Symmetric ? 2.0F * share - 1.0F : share;
}

int nearest_level(Representation representation, float value) {
    const float share = representation.values == Values::Symmetric ? (value + 1.0F) / 2.0F : value;
    return round_level(share * static_cast<float>(representation.top()), representation.top());
}

float quantizer_divisor(const qconv_quantizer &quantizer, std::span<const float> values) {
    if (quantizer.kind == QCONV_PROGRESSIVE_SIGN && quantizer.training != 0) {
        // 1 - T is alpha^(-beta * scale) but for rounding; bitorch takes the difference, in double.
        const double temperature =
            1.0 - std::pow(double{quantizer.alpha}, -double{quantizer.beta} * double{quantizer.scale});
        return static_cast<float>(std::max(1.0 - temperature, 1e-7));
    }
    if (quantizer.kind == QCONV_WEIGHTDOREFA) {
        float largest = 0; // a comparison with NaN is false, which passes it over
        for (const float value : values) {
            const float magnitude = std::fabs(value);
            largest = magnitude > largest ? magnitude : largest;
        }
        const float divisor = 2.0F * std::tanh(largest); // tanh is odd and rises
        return divisor > 0 ? divisor : 1.0F;
    }
    return 1.0F;
}

TensorQuantizer::TensorQuantizer(const MixedQuantizer &mixed, std::span<const float> tensor)
    : mixed_(mixed),
      divisor_(quantizer_divisor(mixed.first, tensor)),
      next_divisor_(mixed.mix == 0 ? divisor_ : quantizer_divisor(mixed.next, tensor)) {}

void TensorQuantizer::levels(std::span<const float> part, std::uint8_t *result) const {
    if (!representation(mixed_).integer()) {
        throw Error(QCONV_INTERNAL,
                    "quantizer " + std::to_string(static_cast<int>(mixed_.first.kind)) + " has no levels");
    }
    with_level(mixed_.first, divisor_, [&](auto level) { std::transform(part.begin(), part.end(), result, level); });
}

void TensorQuantizer::values(std::span<const float> part, float *result) const {
    with_value(mixed_.first, divisor_, [&](auto value) { std::transform(part.begin(), part.end(), result, value); });
    if (mixed_.mix == 0) return;
    const float mix = mixed_.mix;
    const auto keep = static_cast<float>(1.0 - double{mix});
    with_value(mixed_.next, next_divisor_, [&](auto value) {
        std::transform(part.begin(), part.end(), result, result,
                       [=](float v, float first) { return value(v) * mix + first * keep; });
    });
}

} // namespace qconv
