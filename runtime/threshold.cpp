#include "threshold.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "errors.h"
#include "qconv/layout.h"

namespace qconv {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Whether the next layer's bit of scale * y + shift is set. y comes exact, and the product of it and a float is exact
// in a long double; the sum's sign is, whatever it rounds to.
struct Bit {
    float scale, shift;
    Step step;

    bool operator()(long double y) const {
        const long double z = static_cast<long double>(scale) * y + (static_cast<long double>(shift) - step.threshold);
        return step.strict ? z > 0 : z >= 0;
    }
};

// The first of low..high for which `is` holds, which it then does for all above; high + 1 if there is none.
template <typename Predicate>
std::int64_t first_where(std::int64_t low, std::int64_t high, Predicate is) {
    while (low <= high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (is(middle)) {
            high = middle - 1;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

// All floats but the NaNs, in order, as integers; both zeros are 0.
std::int64_t rank(float value) {
    const auto bits = static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(value) & 0x7fffffffU);
    return value < 0 ? -bits : bits;
}
float from_rank(std::int64_t rank) {
    const float magnitude = std::bit_cast<float>(static_cast<std::uint32_t>(rank < 0 ? -rank : rank));
    return rank < 0 ? -magnitude : magnitude;
}

void set_bit(Memory &words, std::int64_t bit) {
    words.as<std::uint32_t>()[bit / 32] |= std::uint32_t{1} << (bit % 32);
}

Memory zeroed_words(std::int64_t count) {
    Memory memory(static_cast<std::size_t>(count) * sizeof(std::uint32_t));
    std::memset(memory.data(), 0, memory.bytes());
    return memory;
}

} // namespace

void fold_batch_norm(std::int64_t channels, const BatchNorm &norm, float *scale, float *shift) {
    require_pointer(norm.mean, "mean");
    require_pointer(norm.variance, "variance");
    require_pointer(scale, "scale");
    require_pointer(shift, "shift");
    if (!(norm.epsilon >= 0)) throw_invalid("epsilon", std::to_string(norm.epsilon), "it must be at least 0");
    for (std::int64_t c = 0; c < channels; ++c) {
        const double variance = norm.variance[c] + norm.epsilon;
        if (!(variance > 0)) {
            throw_invalid("variance[" + std::to_string(c) + "]", std::to_string(norm.variance[c]),
                          "with epsilon it must be above 0");
        }
        const double factor = (norm.weight == nullptr ? 1 : norm.weight[c]) / std::sqrt(variance);
        scale[c] = static_cast<float>(factor);
        shift[c] = static_cast<float>((norm.bias == nullptr ? 0 : norm.bias[c]) - norm.mean[c] * factor);
    }
}

Step input_step(const qconv_layer_config &config) {
    switch (input_quantizer(config).first.kind) {
        case QCONV_STEHEAVISIDE:
            return {0, true};
        case QCONV_INPUTDOREFA: // of one bit: 0.5 rounds to even, to 0
            return {0.5F, true};
        default:
            return {0, false};
    }
}

ToBitsRule make_rule(std::int64_t channels, const Affine &affine, const Step &step) {
    ToBitsRule result;
    result.words = sign_words(channels);
    result.flip = zeroed_words(result.words);
    result.rule = Memory(static_cast<std::size_t>(result.words * 32 * 2) * sizeof(float));
    auto *rule = result.rule.as<float>();
    const std::int64_t lowest = rank(-infinity), highest = rank(infinity);
    for (std::int64_t c = 0; c < result.words * 32; ++c, rule += 2) {
        // Never true.
        rule[0] = 1, rule[1] = -infinity;
        if (c >= channels) continue;
        const Bit bit{affine.scale_of(c), affine.shift_of(c), step};
        if (bit.scale == 0) {
            if (bit(0)) set_bit(result.flip, c);
            continue;
        }
        const bool rises = bit.scale > 0;
        const std::int64_t turn = first_where(
            lowest, highest, [&](std::int64_t at) { return bit(static_cast<long double>(from_rank(at))) == rises; });
        // The comparison must be false of NaN, whose bit is 1 unless the quantizer is strict. So a bit that is not
        // strict is the negation of "beyond", one that is is "beyond": x < T, or x > T as -x < -T.
        const bool below = rises != step.strict;
        rule[0] = below ? 1.0F : -1.0F;
        rule[1] = below ? from_rank(turn) : -from_rank(turn - 1);
        if (!step.strict) set_bit(result.flip, c);
    }
    return result;
}

Limits make_limits(const qconv_kernel &kernel, const qconv_layer_config &config, const PackedForward &packed,
                   const Affine &affine, const Step &step) {
    const std::int64_t outputs = out_in_group(config), taps = config.kernel_size;
    const std::int64_t lanes = packed.shape.out_blocks * kernel.out_block;
    const std::int64_t flips = sign_words(outputs);
    Limits result;
    result.cases = packed.pad_delta == 0 ? 1 : 2 * taps + 1;
    result.flip = zeroed_words(config.groups * flips);
    result.limit = Memory(static_cast<std::size_t>(lanes * result.cases * config.groups) * sizeof(std::int32_t));
    auto *limit = result.limit.as<std::int32_t>();
    std::fill_n(limit, lanes * result.cases * config.groups, -1);
    for (std::int64_t channel = 0; channel < config.out_channels; ++channel) {
        const std::int64_t group = channel / outputs, o = channel % outputs;
        const Bit bit{affine.scale_of(channel), affine.shift_of(channel), step};
        const bool rises = bit.scale > 0; // with y, which falls as more bits disagree
        const std::int64_t offset = packed.offset.as<std::int32_t>()[channel];
        const float *edge = packed.edge.as<float>() + channel * (taps + 1);
        if (!rises) set_bit(result.flip, group * flips * 32 + o);
        for (std::int64_t i = 0; i < result.cases; ++i) {
            const long double outside = i == 0 ? 0.0L : i <= taps ? edge[i] : edge[taps] - edge[i - taps - 1];
            const auto set = [&](std::int64_t disagreements) {
                return bit(static_cast<long double>(packed.scale) *
                               static_cast<long double>(offset - 2 * disagreements) +
                           packed.pad_delta * outside);
            };
            // With a scale of 0 the bit is the same everywhere, and so are both sides here.
            const std::int64_t first =
                first_where(0, window_elements(config), [&](std::int64_t sum) { return set(sum) != rises; });
            limit[(group * result.cases + i) * lanes + o] = static_cast<std::int32_t>(first - 1);
        }
    }
    return result;
}

} // namespace qconv
