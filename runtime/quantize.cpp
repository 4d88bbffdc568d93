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

std::vector<float> quantize_alone(const qconv_quantizer &quantizer, std::span<const float> values) {
    const Representation form = representation(quantizer);
    std::vector<float> result(values.begin(), values.end());
    if (form.integer()) {
        const std::vector<std::uint8_t> levels = quantize_levels(quantizer, values);
        std::transform(levels.begin(), levels.end(), result.begin(),
                       [form](std::uint8_t level) { return level_value(form, level); });
    } else if (quantizer.kind == QCONV_PROGRESSIVE_SIGN) {
        const float divisor = quantizer_divisor(quantizer, values);
        for (float &value : result)
            value = hardtanh(value / divisor);
    }
    return result;
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

std::vector<std::uint8_t> quantize_levels(const qconv_quantizer &quantizer, std::span<const float> values) {
    const Representation form = representation(quantizer);
    if (!form.integer()) {
        throw Error(QCONV_INTERNAL, "quantizer " + std::to_string(static_cast<int>(quantizer.kind)) + " has no levels");
    }
    const int top = form.top();
    const auto scale = static_cast<float>(top);
    std::vector<std::uint8_t> levels(values.size());
    const auto fill = [&](auto level) { std::transform(values.begin(), values.end(), levels.begin(), level); };
    if (quantizer.kind == QCONV_INPUTDOREFA) {
        fill([=](float v) { return round_level(v > 0 ? std::min(v, 1.0F) * scale : 0.0F, top); });
    } else if (quantizer.kind == QCONV_WEIGHTDOREFA) {
        const float divisor = quantizer_divisor(quantizer, values);
        fill([=](float v) { return round_level((std::tanh(v) / divisor + 0.5F) * scale, top); });
    } else if (quantizer.kind == QCONV_STEHEAVISIDE) {
        fill([](float v) { return static_cast<std::uint8_t>(v > 0 ? 1 : 0); });
    } else {
        fill([](float v) { return static_cast<std::uint8_t>(v < 0 ? 0 : 1); });
    }
    return levels;
}

std::vector<float> quantize_values(const MixedQuantizer &mixed, std::span<const float> values) {
    std::vector<float> result = quantize_alone(mixed.first, values);
    if (mixed.mix == 0) return result;
    const std::vector<float> next = quantize_alone(mixed.next, values);
    const auto keep = static_cast<float>(1.0 - double{mixed.mix});
    std::transform(result.begin(), result.end(), next.begin(), result.begin(),
                   [&](float a, float b) { return b * mixed.mix + a * keep; });
    return result;
}

} // namespace qconv
