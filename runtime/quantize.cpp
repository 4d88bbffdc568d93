#include "quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "clones.h"
#include "elementary.h"
#include "errors.h"

namespace qconv {
namespace {

using Values = Representation::Values;

constexpr std::size_t at_once = 256; // values made between two passes over them

// Half to even, as the default rounding mode has it; NaN gives 0.
std::uint8_t round_level(float scaled, int top) {
    const float rounded = std::nearbyint(scaled), positive = rounded > 0 ? rounded : 0.0F;
    return static_cast<std::uint8_t>(std::min(positive, static_cast<float>(top)));
}

float hardtanh(float value) {
    return std::isnan(value) ? value : std::clamp(value, -1.0F, 1.0F);
}

// NaNs are passed over: a comparison with one is false.
QCONV_CPU_CLONES float largest_magnitude(const float *values, std::size_t count) {
    std::array<float, 32> largest{}; // several at once, for one alone waits for each comparison
    std::size_t i = 0;
    for (; i + largest.size() <= count; i += largest.size()) {
        for (std::size_t lane = 0; lane < largest.size(); ++lane) {
            const float magnitude = std::fabs(values[i + lane]);
            largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
        }
    }
    for (; i < count; ++i)
        largest[0] = std::fabs(values[i]) > largest[0] ? std::fabs(values[i]) : largest[0];
    return *std::max_element(largest.begin(), largest.end());
}

// A level of weightdorefa before it is rounded.
float weightdorefa_scaled(float squashed, float divisor, int top) {
    return (squashed / divisor + 0.5F) * static_cast<float>(top);
}

std::uint8_t weightdorefa_level(float value, float divisor, int top) {
    return round_level(weightdorefa_scaled(std::tanh(value), divisor, top), top);
}

// By a tanh that comes in vectors; returns how many lie so near to the middle between two levels that the last digits
// of std::tanh decide.
QCONV_CPU_CLONES std::size_t weightdorefa_levels_nearly(const float *values, std::size_t count, float divisor, int top,
                                                        std::uint8_t *levels, std::uint8_t *undecided) {
    // tanh_of() is 3 units in the last place off at most and std::tanh 2, each at most 2^-23 of the number; divided,
    // that is 0.5 at most. Rounding adds less than 3 times 2^-24.
    const float near = static_cast<float>(top) * 8 * 0x1p-24F;
    std::uint32_t found = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const float scaled = weightdorefa_scaled(tanh_of(values[i]), divisor, top);
        levels[i] = round_level(scaled, top);
        const bool undecided_here = std::fabs(std::fabs(scaled - std::nearbyint(scaled)) - 0.5F) < near;
        undecided[i] = undecided_here ? 1 : 0;
        found += undecided_here ? 1U : 0U;
    }
    return found;
}

void weightdorefa_levels(std::span<const float> values, float divisor, int top, std::uint8_t *levels) {
    std::array<std::uint8_t, at_once> undecided;
    for (std::size_t first = 0; first < values.size(); first += at_once) {
        const std::size_t count = std::min(at_once, values.size() - first);
        const float *part = values.data() + first;
        std::size_t left = weightdorefa_levels_nearly(part, count, divisor, top, levels + first, undecided.data());
        for (std::size_t i = 0; left > 0; ++i) {
            if (undecided[i] == 0) continue;
            levels[first + i] = weightdorefa_level(part[i], divisor, top);
            --left;
        }
    }
}

QCONV_CPU_CLONES void inputdorefa_levels(const float *values, std::size_t count, int top, std::uint8_t *levels) {
    const auto scale = static_cast<float>(top);
    for (std::size_t i = 0; i < count; ++i)
        levels[i] = round_level(std::min(values[i], 1.0F) * scale, top);
}

QCONV_CPU_CLONES void level_values(const std::uint8_t *levels, std::size_t count, Representation form, float *values) {
    const auto top = static_cast<float>(form.top());
    const bool is_signed = form.values == Values::Symmetric; // as level_value() has it
    const float factor = is_signed ? 2.0F : 1.0F, less = is_signed ? 1.0F : 0.0F;
    for (std::size_t i = 0; i < count; ++i)
        values[i] = factor * (static_cast<float>(levels[i]) / top) - less;
}

// Quantizers of one bit compare with a threshold; they differ in what becomes of NaN.
std::uint8_t bit_of(float value, float threshold, bool nan_is_one) {
    return static_cast<std::uint8_t>(nan_is_one ? !(value < threshold) : value >= threshold);
}

QCONV_CPU_CLONES void bit_levels(const float *values, std::size_t count, float threshold, bool nan_is_one,
                                 std::uint8_t *levels) {
    for (std::size_t i = 0; i < count; ++i)
        levels[i] = bit_of(values[i], threshold, nan_is_one);
}

QCONV_CPU_CLONES void append_bits(const float *values, std::size_t count, float threshold, bool nan_is_one,
                                  std::uint8_t *joined) {
    for (std::size_t i = 0; i < count; ++i)
        joined[i] = static_cast<std::uint8_t>(joined[i] + joined[i] + bit_of(values[i], threshold, nan_is_one));
}

QCONV_CPU_CLONES void bit_values(const float *values, std::size_t count, float threshold, bool nan_is_one, float clear,
                                 float *result) {
    for (std::size_t i = 0; i < count; ++i)
        result[i] = bit_of(values[i], threshold, nan_is_one) != 0 ? 1.0F : clear;
}

// Floats as integers in the same order, NaNs apart.
std::int32_t ordinal(float value) {
    const auto bits = std::bit_cast<std::int32_t>(value);
    return bits >= 0 ? bits : std::numeric_limits<std::int32_t>::min() - bits;
}
float from_ordinal(std::int32_t ordinal) {
    return std::bit_cast<float>(ordinal >= 0 ? ordinal : std::numeric_limits<std::int32_t>::min() - ordinal);
}

// The least value that weightdorefa of one bit makes 1: levels rise with the value, and infinity reaches the top.
float first_of_level_one(float divisor) {
    std::int32_t low = ordinal(-std::numeric_limits<float>::infinity()),
                 high = ordinal(std::numeric_limits<float>::infinity());
    while (low < high) {
        const auto middle = static_cast<std::int32_t>((std::int64_t{low} + high) >> 1);
        if (weightdorefa_level(from_ordinal(middle), divisor, 1) >= 1) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return from_ordinal(low);
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

bool quantized_before(const qconv_layer_config &config) {
    const MixedQuantizer input = input_quantizer(config);
    return input.first.kind == QCONV_WEIGHTDOREFA || (input.mix != 0 && input.next.kind == QCONV_WEIGHTDOREFA);
}

MixedQuantizer kernel_input_quantizer(const qconv_layer_config &config) {
    if (!quantized_before(config)) return input_quantizer(config);
    const qconv_quantizer as_it_is =
        default_quantizer(input_representation(config).binary() ? QCONV_SIGN : QCONV_IDENTITY);
    return {as_it_is, as_it_is, 0};
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
        const float largest = largest_magnitude(values.data(), values.size());
        const float divisor = 2.0F * std::tanh(largest); // tanh is odd and rises
        return divisor > 0 ? divisor : 1.0F;
    }
    return 1.0F;
}

TensorQuantizer::Side::Side(const qconv_quantizer &side_quantizer, std::span<const float> tensor)
    : quantizer(side_quantizer),
      form(representation(side_quantizer)),
      divisor(quantizer_divisor(side_quantizer, tensor)),
      needs_tanh(side_quantizer.kind == QCONV_WEIGHTDOREFA && form.bits > 1) {
    if (form.bits != 1) return;
    switch (quantizer.kind) {
        case QCONV_STEHEAVISIDE:
            threshold = std::numeric_limits<float>::denorm_min();
            return;
        case QCONV_INPUTDOREFA: // half to even
            threshold = std::nextafter(0.5F, 1.0F);
            return;
        case QCONV_WEIGHTDOREFA:
            threshold = first_of_level_one(divisor);
            return;
        default:
            nan_is_one = true;
    }
}

void TensorQuantizer::Side::prepare_levels(std::span<const float> tensor, std::uint8_t *result) {
    weightdorefa_levels(tensor, divisor, form.top(), result);
    tensor_start = tensor.data();
    prepared = result;
}

void TensorQuantizer::Side::levels(std::span<const float> part, std::uint8_t *result) const {
    if (form.bits == 1) {
        bit_levels(part.data(), part.size(), threshold, nan_is_one, result);
    } else if (prepared != nullptr) {
        std::copy_n(prepared + (part.data() - tensor_start), part.size(), result);
    } else if (needs_tanh) {
        weightdorefa_levels(part, divisor, form.top(), result);
    } else {
        inputdorefa_levels(part.data(), part.size(), form.top(), result);
    }
}

void TensorQuantizer::Side::values(std::span<const float> part, float *result) const {
    if (form.bits == 1) {
        bit_values(part.data(), part.size(), threshold, nan_is_one, level_value(form, 0), result);
    } else if (form.integer()) {
        std::array<std::uint8_t, at_once> levels;
        for (; !part.empty(); part = part.subspan(std::min(at_once, part.size()))) {
            const std::size_t count = std::min(at_once, part.size());
            this->levels(part.first(count), levels.data());
            level_values(levels.data(), count, form, result);
            result += count;
        }
    } else if (quantizer.kind == QCONV_PROGRESSIVE_SIGN) {
        std::transform(part.begin(), part.end(), result, [this](float v) { return hardtanh(v / divisor); });
    } else {
        std::copy(part.begin(), part.end(), result);
    }
}

TensorQuantizer::TensorQuantizer(const MixedQuantizer &mixed, std::span<const float> tensor)
    : first_(mixed.first, tensor),
      next_(mixed.next, mixed.mix == 0 ? std::span<const float>() : tensor),
      mix_(mixed.mix) {}

TensorQuantizer::TensorQuantizer(const MixedQuantizer &mixed, std::span<const float> tensor, PackScratch &scratch)
    : TensorQuantizer(mixed, tensor) {
    const bool both = mix_ != 0 && next_.needs_tanh;
    const std::size_t count = tensor.size() * ((first_.needs_tanh ? 1U : 0U) + (both ? 1U : 0U));
    if (count == 0) return;
    auto *levels = scratch.take<std::uint8_t>(static_cast<std::int64_t>(count));
    if (first_.needs_tanh) first_.prepare_levels(tensor, levels);
    if (both) next_.prepare_levels(tensor, levels + count - tensor.size());
}

TensorQuantizer::TensorQuantizer(Representation quantized)
    : first_(default_quantizer(QCONV_IDENTITY), {}), next_(first_), mix_(0), quantized_(quantized) {
    if (quantized.values == Values::Unsigned) first_.threshold = 0.5F; // of one bit, between its two values
}

void TensorQuantizer::levels(std::span<const float> part, std::uint8_t *result) const {
    if (quantized_.integer()) {
        std::transform(part.begin(), part.end(), result,
                       [this](float v) { return static_cast<std::uint8_t>(nearest_level(quantized_, v)); });
        return;
    }
    if (mix_ != 0 || !first_.form.integer()) {
        throw Error(QCONV_INTERNAL,
                    "quantizer " + std::to_string(static_cast<int>(first_.quantizer.kind)) + " has no levels");
    }
    first_.levels(part, result);
}

void TensorQuantizer::append_levels(std::span<const float> part, std::uint8_t *joined) const {
    append_bits(part.data(), part.size(), first_.threshold, first_.nan_is_one, joined);
}

void TensorQuantizer::values(std::span<const float> part, float *result) const {
    first_.values(part, result);
    if (mix_ == 0) return;
    const auto keep = static_cast<float>(1.0 - double{mix_});
    std::array<float, at_once> next;
    for (; !part.empty(); part = part.subspan(std::min(at_once, part.size()))) {
        const std::size_t count = std::min(at_once, part.size());
        next_.values(part.first(count), next.data());
        for (std::size_t i = 0; i < count; ++i)
            result[i] = next[i] * mix_ + result[i] * keep;
        result += count;
    }
}

} // namespace qconv
