#include "support/cases.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qconv::test {
namespace {

bool always_binary(const qconv_quantizer &q) {
    return q.kind == QCONV_SIGN || q.kind == QCONV_APPROXSIGN || q.kind == QCONV_SWISHSIGN ||
           q.kind == QCONV_STEHEAVISIDE || (q.kind == QCONV_PROGRESSIVE_SIGN && q.training == 0);
}

/// What a quantizer distinguishes among its inputs, and which special values it defines.
struct Range {
    float low = -1;         // values below are clamped; 0 for inputdorefa
    bool binary = false;    // every value is defined, NaN too
    bool saturates = false; // infinities are defined
    float ties = 0;         // inputdorefa: levels, for values halfway between two
};

Range range_of(const qconv_quantizer &q) {
    Range range;
    range.binary = always_binary(q);
    range.saturates = range.binary || q.kind == QCONV_INPUTDOREFA || q.kind == QCONV_PROGRESSIVE_SIGN;
    if (q.kind == QCONV_INPUTDOREFA) {
        range.low = 0;
        range.ties = static_cast<float>((1 << q.bits) - 1);
    }
    return range;
}

float random_value(const Range &range, bool with_nan, Random &random) {
    // Some values are special. Ordinary ones reach past both ends of the range, so that clamping shows.
    const int64_t draw = random.below(80);
    if (draw == 0) return 0.0f;
    if (draw == 1) return -0.0f;
    if (draw == 2 && range.saturates) {
        constexpr float infinity = std::numeric_limits<float>::infinity();
        return random.below(2) == 0 ? infinity : -infinity;
    }
    if (draw == 3 && range.binary) {
        constexpr float tiny = std::numeric_limits<float>::denorm_min();
        return random.below(2) == 0 ? tiny : -tiny;
    }
    if (draw == 4 && range.binary && with_nan) return std::numeric_limits<float>::quiet_NaN();
    if (draw < 20 && range.ties > 0) {
        return (static_cast<float>(random.below(static_cast<int64_t>(range.ties))) + 0.5f) / range.ties;
    }
    if (range.low == 0) return random.uniform(-0.25f, 1.25f);
    return random.bell();
}

/// weightdorefa rounds tanh(v) / (2 max) + 0.5 at steps of 1 / m. tanh differs by some 1e-7 between libraries, so
/// values within 1e-5 of a step would make the level a matter of opinion; they are drawn again.
void keep_off_steps(std::vector<float> &values, int bits, Random &random) {
    if (values.empty()) return;
    const double m = (1 << bits) - 1;
    // The largest value sets the scale of all others: fixed first, and no later draw may exceed it.
    values[0] = 4.0f;
    const double largest = std::tanh(4.0);
    for (size_t i = 1; i < values.size(); ++i) {
        for (;;) {
            const double level = (std::tanh(double{values[i]}) / (2 * largest) + 0.5) * m;
            const double above = level - std::floor(level);
            // 0 is a tie, and an exact one: tanh(0) is 0 everywhere.
            if (values[i] == 0.0f || (std::abs(above - 0.5) > 1e-5 * m && std::abs(values[i]) < 4.0f)) break;
            values[i] = random.uniform(-2.0f, 2.0f);
        }
    }
}

std::vector<float> make_values(const qconv_quantizer &first, const qconv_quantizer &next, float mix, int64_t count,
                               bool with_nan, Random &random) {
    Range range = range_of(first);
    if (mix > 0) {
        const Range other = range_of(next);
        range.low = std::min(range.low, other.low);
        range.binary = range.binary && other.binary;
        range.saturates = range.saturates && other.saturates;
        range.ties = std::max(range.ties, other.ties);
    }
    std::vector<float> values(static_cast<size_t>(count));
    for (float &v : values)
        v = random_value(range, with_nan, random);
    if (first.kind == QCONV_WEIGHTDOREFA) keep_off_steps(values, first.bits, random);
    if (mix > 0 && next.kind == QCONV_WEIGHTDOREFA) keep_off_steps(values, next.bits, random);
    return values;
}

Pair pair(std::string name, qconv_layer_kind kind, qconv_quantizer input, qconv_quantizer weight, bool thin = false) {
    Pair p{std::move(name), kind};
    p.input = p.input_next = input;
    p.weight = p.weight_next = weight;
    p.thin = thin;
    return p;
}

Pair qconv1d(qconv_quantizer input, qconv_quantizer weight, bool thin = false) {
    const auto text = [](const qconv_quantizer &q) {
        static const char *const names[] = {"identity",     "sign",        "approxsign",   "swishsign",
                                            "steheaviside", "inputdorefa", "weightdorefa", "progressive_sign"};
        std::string s = names[q.kind];
        if (q.kind == QCONV_INPUTDOREFA || q.kind == QCONV_WEIGHTDOREFA) s += std::to_string(q.bits);
        return q.training != 0 ? s + "(training)" : s;
    };
    return pair(text(input) + "/" + text(weight), QCONV_LAYER_QCONV1D, input, weight, thin);
}

std::vector<Pair> make_pairs() {
    const auto q = quantizer;
    const qconv_quantizer sign = q(QCONV_SIGN, 1), identity = q(QCONV_IDENTITY, 1);
    qconv_quantizer progressive = q(QCONV_PROGRESSIVE_SIGN, 1);
    progressive.training = 1;
    progressive.scale = 0.125f;

    std::vector<Pair> all;
    all.push_back(qconv1d(sign, sign, true));
    all.push_back(qconv1d(q(QCONV_STEHEAVISIDE, 1), sign, true));
    all.push_back(qconv1d(q(QCONV_APPROXSIGN, 1), q(QCONV_STEHEAVISIDE, 1)));
    all.push_back(qconv1d(q(QCONV_SWISHSIGN, 1), q(QCONV_APPROXSIGN, 1)));
    all.push_back(qconv1d(q(QCONV_PROGRESSIVE_SIGN, 1), q(QCONV_SWISHSIGN, 1)));
    for (const int bits : {1, 2, 3, 4, 5, 8}) {
        all.push_back(qconv1d(q(QCONV_INPUTDOREFA, bits), sign, bits == 2 || bits == 8));
        all.push_back(qconv1d(sign, q(QCONV_WEIGHTDOREFA, bits), bits == 2));
    }
    constexpr int kBits[][2] = {{1, 1}, {1, 2}, {2, 1}, {2, 2}, {3, 1}, {1, 4}, {3, 3}, {4, 4},
                                {3, 6}, {6, 3}, {7, 7}, {5, 8}, {8, 7}, {8, 1}, {8, 8}};
    for (const auto &b : kBits) {
        const bool thin = (b[0] == 4 && b[1] == 4) || b[1] == 8 || (b[0] == 2 && b[1] == 2);
        all.push_back(qconv1d(q(QCONV_INPUTDOREFA, b[0]), q(QCONV_WEIGHTDOREFA, b[1]), thin));
    }
    all.push_back(qconv1d(q(QCONV_STEHEAVISIDE, 1), q(QCONV_INPUTDOREFA, 2)));
    all.push_back(qconv1d(q(QCONV_WEIGHTDOREFA, 3), sign));
    all.push_back(qconv1d(q(QCONV_WEIGHTDOREFA, 2), q(QCONV_WEIGHTDOREFA, 2)));
    all.push_back(qconv1d(identity, sign, true));
    all.push_back(qconv1d(identity, identity));
    all.push_back(qconv1d(sign, identity));
    all.push_back(qconv1d(progressive, sign, true));
    all.push_back(qconv1d(progressive, progressive));

    all.push_back(pair("NoAct sign", QCONV_LAYER_NOACT, sign, sign, true));
    all.push_back(pair("NoAct steheaviside", QCONV_LAYER_NOACT, sign, q(QCONV_STEHEAVISIDE, 1)));
    all.push_back(pair("NoAct weightdorefa4", QCONV_LAYER_NOACT, sign, q(QCONV_WEIGHTDOREFA, 4), true));
    all.push_back(pair("NoAct identity", QCONV_LAYER_NOACT, sign, identity));

    Pair conv1d = pair("conv1d", QCONV_LAYER_CONV1D, identity, identity);
    all.push_back(conv1d);
    conv1d.name = "conv1d+bias";
    conv1d.bias = conv1d.thin = true;
    all.push_back(conv1d);

    Pair mixed = qconv1d(identity, sign);
    mixed.name = "identity to inputdorefa2, 3/8 of the way / sign";
    mixed.input_next = q(QCONV_INPUTDOREFA, 2);
    mixed.input_mix = 0.375f;
    mixed.thin = true;
    all.push_back(mixed);
    mixed.name += " to weightdorefa2, 1/3";
    mixed.weight_next = q(QCONV_WEIGHTDOREFA, 2);
    mixed.weight_mix = 1.0f / 3.0f;
    all.push_back(mixed);
    mixed = qconv1d(progressive, identity);
    mixed.name = "progressive_sign(training) to sign, 0.9 / identity to sign, 0.1";
    mixed.input_next = mixed.weight_next = sign;
    mixed.input_mix = 0.9f;
    mixed.weight_mix = 0.1f;
    all.push_back(mixed);
    mixed = qconv1d(identity, identity);
    mixed.name = "identity to inputdorefa3, arrived / identity to sign, arrived";
    mixed.input_next = q(QCONV_INPUTDOREFA, 3);
    mixed.weight_next = sign;
    mixed.input_mix = mixed.weight_mix = 1.0f;
    all.push_back(mixed);
    return all;
}

/// The values that a quantizer maps to its two limits. A value of 6 is at the limit of every kind but identity.
float limit(const qconv_quantizer &q, bool high) {
    if (q.kind == QCONV_IDENTITY) return high ? 1.0f : -1.0f;
    if (q.kind == QCONV_INPUTDOREFA) return high ? 6.0f : 0.0f;
    return high ? 6.0f : -6.0f;
}

} // namespace

const std::vector<Pair> &pairs() {
    static const std::vector<Pair> all = make_pairs();
    return all;
}

qconv_quantizer quantizer(qconv_quantizer_kind kind, int bits) {
    qconv_quantizer q{};
    q.kind = kind;
    q.bits = bits;
    q.alpha = 4;
    q.beta = kind == QCONV_SWISHSIGN ? 5.0f : 10.0f;
    return q;
}

void apply(const Pair &pair, qconv_layer_config &config) {
    config.kind = pair.kind;
    config.input_quantization = pair.input;
    config.input_next = pair.input_next;
    config.input_mix = pair.input_mix;
    config.weight_quantization = pair.weight;
    config.weight_next = pair.weight_next;
    config.weight_mix = pair.weight_mix;
}

std::vector<float> make_input(const qconv_layer_config &config, int64_t count, Data data, Random &random) {
    const qconv_quantizer identity = quantizer(QCONV_IDENTITY);
    const bool quantized = config.kind == QCONV_LAYER_QCONV1D;
    const qconv_quantizer &q = quantized ? config.input_quantization : identity;
    if (data != Data::Extreme) {
        return make_values(q, quantized ? config.input_next : identity, quantized ? config.input_mix : 0, count,
                           data == Data::WithNaN, random);
    }
    return std::vector<float>(static_cast<size_t>(count), limit(q, true));
}

std::vector<float> make_weight(const qconv_layer_config &config, Data data, Random &random) {
    const qconv_quantizer identity = quantizer(QCONV_IDENTITY);
    const bool quantized = config.kind != QCONV_LAYER_CONV1D;
    const qconv_quantizer &q = quantized ? config.weight_quantization : identity;
    const int64_t terms = config.in_channels / config.groups * config.kernel_size;
    const int64_t count = config.out_channels * terms;
    if (data != Data::Extreme) {
        return make_values(q, quantized ? config.weight_next : identity, quantized ? config.weight_mix : 0, count,
                           data == Data::WithNaN, random);
    }
    std::vector<float> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
        values[static_cast<size_t>(i)] = limit(q, i / terms % 2 == 0);
    return values;
}

std::vector<float> make_bias(const qconv_layer_config &config, Random &random) {
    std::vector<float> bias(static_cast<size_t>(config.out_channels));
    for (float &v : bias)
        v = random.bell();
    return bias;
}

} // namespace qconv::test
