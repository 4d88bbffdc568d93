#include "quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "clones.h"
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

// NaNs are passed over: a comparison with one is false.
float largest_magnitude(std::span<const float> values) {
    std::array<float, 8> largest{}; // several at once, for one alone waits for each comparison
    std::size_t i = 0;
    const auto keep = [](float &most, float value) {
        const float magnitude = std::fabs(value);
        most = magnitude > most ? magnitude : most;
    };
    for (; i + largest.size() <= values.size(); i += largest.size()) {
        for (std::size_t lane = 0; lane < largest.size(); ++lane)
            keep(largest[lane], values[i + lane]);
    }
    for (; i < values.size(); ++i)
        keep(largest[0], values[i]);
    return *std::max_element(largest.begin(), largest.end());
}

std::uint8_t weightdorefa_level(float value, float divisor, int top) {
    return round_level((std::tanh(value) / divisor + 0.5F) * static_cast<float>(top), top);
}

QCONV_CPU_CLONES void sign_levels(const float *values, std::size_t count, std::uint8_t *levels) {
    for (std::size_t i = 0; i < count; ++i)
        levels[i] = values[i] < 0 ? 0 : 1;
}

QCONV_CPU_CLONES void sign_values(const float *values, std::size_t count, float *signs) {
    for (std::size_t i = 0; i < count; ++i)
        signs[i] = values[i] < 0 ? -1.0F : 1.0F;
}

QCONV_CPU_CLONES void append_signs(const float *values, std::size_t count, std::uint8_t *joined) {
    for (std::size_t i = 0; i < count; ++i)
        joined[i] = static_cast<std::uint8_t>(joined[i] + joined[i] + (values[i] < 0 ? 0 : 1));
}

bool quantizes_by_sign(const qconv_quantizer &quantizer) {
    return representation(quantizer).binary() && quantizer.kind != QCONV_STEHEAVISIDE &&
           quantizer.kind != QCONV_WEIGHTDOREFA;
}

// Floats as integers in the same order, NaNs apart.
std::int32_t ordinal(float value) {
    const auto bits = std::bit_cast<std::int32_t>(value);
    return bits >= 0 ? bits : std::numeric_limits<std::int32_t>::min() - bits;
}
float from_ordinal(std::int32_t ordinal) {
    return std::bit_cast<float>(ordinal >= 0 ? ordinal : std::numeric_limits<std::int32_t>::min() - ordinal);
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
        const float largest = largest_magnitude(values);
        const float divisor = 2.0F * std::tanh(largest); // tanh is odd and rises
        return divisor > 0 ? divisor : 1.0F;
    }
    return 1.0F;
}

LevelSteps::LevelSteps(const qconv_quantizer &quantizer, float divisor) : bits_(quantizer.bits) {
    const int top = representation(quantizer).top();
    std::int32_t low = ordinal(-std::numeric_limits<float>::infinity());
    for (int level = 1; level <= top; ++level) {
        // Levels rise with the value, and reach the top: the divisor is at most 2.
        std::int32_t high = ordinal(std::numeric_limits<float>::infinity());
        while (low < high) {
            const auto middle = static_cast<std::int32_t>((std::int64_t{low} + high) >> 1);
            if (weightdorefa_level(from_ordinal(middle), divisor, top) >= level) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        starts_[static_cast<std::size_t>(level)] = from_ordinal(low);
    }
}

TensorQuantizer::Side::Side(const qconv_quantizer &side_quantizer, std::span<const float> tensor)
    : quantizer(side_quantizer), divisor(quantizer_divisor(side_quantizer, tensor)) {
    constexpr std::size_t values_per_step = 64; // finding a step takes about half as many tanh
    if (quantizer.kind == QCONV_WEIGHTDOREFA && tensor.size() > (values_per_step << quantizer.bits)) {
        steps = LevelSteps(quantizer, divisor);
    }
}

TensorQuantizer::TensorQuantizer(const MixedQuantizer &mixed, std::span<const float> tensor)
    : first_(mixed.first, tensor),
      next_(mixed.next, mixed.mix == 0 ? std::span<const float>() : tensor),
      mix_(mixed.mix) {}

TensorQuantizer TensorQuantizer::of_quantized(Representation form) {
    const qconv_quantizer identity = default_quantizer(QCONV_IDENTITY);
    TensorQuantizer quantizer({identity, identity, 0}, {});
    quantizer.kept_ = form;
    return quantizer;
}

// One loop a kind, which the compiler can turn into vectors.
template <typename Use>
void TensorQuantizer::with_level(const Side &side, Use use) {
    const int top = representation(side.quantizer).top();
    const auto scale = static_cast<float>(top);
    switch (side.quantizer.kind) {
        case QCONV_INPUTDOREFA:
            return use([=](float v) { return round_level(v > 0 ? std::min(v, 1.0F) * scale : 0.0F, top); });
        case QCONV_WEIGHTDOREFA:
            if (side.steps.known()) return use([&steps = side.steps](float v) { return steps.level(v); });
            return use([=, divisor = side.divisor](float v) { return weightdorefa_level(v, divisor, top); });
        case QCONV_STEHEAVISIDE:
            return use([](float v) { return static_cast<std::uint8_t>(v > 0 ? 1 : 0); });
        default:
            return use([](float v) { return static_cast<std::uint8_t>(v < 0 ? 0 : 1); });
    }
}

template <typename Use>
void TensorQuantizer::with_value(const Side &side, Use use) {
    const Representation form = representation(side.quantizer);
    if (form.integer()) {
        with_level(side, [&](auto level) { use([=](float v) { return level_value(form, level(v)); }); });
    } else if (side.quantizer.kind == QCONV_PROGRESSIVE_SIGN) {
        use([divisor = side.divisor](float v) { return hardtanh(v / divisor); });
    } else {
        use([](float v) { return v; });
    }
}

void TensorQuantizer::levels(std::span<const float> part, std::uint8_t *result) const {
    if (kept_) {
        std::transform(part.begin(), part.end(), result,
                       [form = *kept_](float v) { return static_cast<std::uint8_t>(nearest_level(form, v)); });
        return;
    }
    if (mix_ != 0 || !representation(first_.quantizer).integer()) {
        throw Error(QCONV_INTERNAL,
                    "quantizer " + std::to_string(static_cast<int>(first_.quantizer.kind)) + " has no levels");
    }
    if (quantizes_by_sign(first_.quantizer)) return sign_levels(part.data(), part.size(), result);
    with_level(first_, [&](auto level) { std::transform(part.begin(), part.end(), result, level); });
}

void TensorQuantizer::append_levels(std::span<const float> part, std::uint8_t *joined) const {
    // Values of one bit are signs.
    if (kept_ || quantizes_by_sign(first_.quantizer)) return append_signs(part.data(), part.size(), joined);
    with_level(first_, [&](auto level) {
        std::transform(part.begin(), part.end(), joined, joined, [=](float v, std::uint8_t above) {
            return static_cast<std::uint8_t>(above + above + level(v));
        });
    });
}

void TensorQuantizer::values(std::span<const float> part, float *result) const {
    if (quantizes_by_sign(first_.quantizer)) {
        sign_values(part.data(), part.size(), result);
    } else {
        with_value(first_, [&](auto value) { std::transform(part.begin(), part.end(), result, value); });
    }
    if (mix_ == 0) return;
    const float mix = mix_;
    const auto keep = static_cast<float>(1.0 - double{mix});
    with_value(next_, [&](auto value) {
        std::transform(part.begin(), part.end(), result, result,
                       [=](float v, float first) { return value(v) * mix + first * keep; });
    });
}

} // namespace qconv
