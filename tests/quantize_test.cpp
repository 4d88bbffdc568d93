// What the runtime makes of weights: levels and derivatives, over many numbers, against the oracle.
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "quantize.h"
#include "support/catch.h"
#include "support/reference.h"
#include "support/seed.h"
#include "surrogate.h"

namespace qconv::test {
namespace {

constexpr double kUnit = 0x1p-24;

qconv_quantizer quantizer(qconv_quantizer_kind kind, int bits = 1) {
    qconv_quantizer q = default_quantizer(kind);
    q.bits = bits;
    return q;
}

std::vector<float> normal_numbers(size_t count, float deviation, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> numbers(count);
    for (float &number : numbers)
        number = normal(random);
    return numbers;
}

// So many numbers that some lie next to the middle between two levels, where the last digits of a tanh decide.
TEST_CASE("quantize: weightdorefa's levels are those of the C library's tanh", "[quantize]") {
    constexpr size_t count = 300'000;
    for (const float deviation : {0.02f, 1.0f, 4.0f}) {
        const std::vector<float> weights = normal_numbers(count, deviation, seed());
        const float largest = reference::max_abs_tanh(weights);
        for (const int bits : {1, 2, 4, 8}) {
            INFO(bits << " bits, deviation " << deviation << ", seed " << seed());
            const qconv_quantizer q = quantizer(QCONV_WEIGHTDOREFA, bits);
            PackScratch scratch;
            const TensorQuantizer prepared({q, q, 0}, weights, scratch), at_once({q, q, 0}, weights);
            std::vector<uint8_t> levels(count), same(count);
            prepared.levels(weights, levels.data());
            at_once.levels(weights, same.data());
            CHECK(levels == same);
            const double top = (1 << bits) - 1;
            size_t wrong = 0;
            for (size_t i = 0; i < count; ++i) {
                const double expected = (reference::quantize(q, weights[i], largest) + 1) / 2 * top;
                wrong += levels[i] != std::lround(expected);
            }
            CHECK(wrong == 0);
        }
    }
}

TEST_CASE("quantize: derivatives of weights are the oracle's", "[quantize]") {
    std::vector<float> weights = normal_numbers(20'000, 1, seed());
    for (const float special : {0.0f, -0.0f, 1.0f, -1.0f, std::nextafter(1.0f, 2.0f), 1e-30f, 30.0f, -200.0f, 1e37f})
        weights.push_back(special);
    std::vector<float> factors(weights.size());
    for (const auto kind : {QCONV_APPROXSIGN, QCONV_SWISHSIGN, QCONV_STEHEAVISIDE, QCONV_SIGN}) {
        const qconv_quantizer q = quantizer(kind);
        take_derivatives({q, q, 0}, weights, factors.data());
        for (size_t i = 0; i < weights.size(); ++i) {
            const double expected = reference::surrogate(q, weights[i]), t = std::abs(double{q.beta} * weights[i]);
            // Of swishsign, that of the oracle for kernels: e^-t has an error of t roundings.
            const double scale = double{q.beta} / (1 + std::cosh(std::min(t, 700.0))) * (2 + t);
            const double allowed =
                kind == QCONV_SWISHSIGN ? (16 + 2 * t) * kUnit * scale + double{q.beta} * 0x1p-120 : kUnit * expected;
            INFO(qconv_quantizer_name(kind) << " at " << weights[i] << ", seed " << seed());
            CHECK(std::abs(factors[i] - expected) <= allowed);
        }
    }
}

} // namespace
} // namespace qconv::test
