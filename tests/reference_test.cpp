// The oracle itself, against numbers worked out by hand and against a second, differently written convolution. Against
// bitorch it is held in golden_test.cpp.
#include "support/reference.h"

#include <cmath>
#include <limits>

#include "support/catch.h"
#include "support/layer_case.h"

namespace qconv::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double quantized(qconv_quantizer_kind kind, int bits, float v, float tensor_max = 1.0f) {
    return reference::quantize(quantizer(kind, bits), v, tensor_max);
}

TEST_CASE("reference: quantizers", "[reference]") {
    for (const auto kind : {QCONV_SIGN, QCONV_APPROXSIGN, QCONV_SWISHSIGN, QCONV_PROGRESSIVE_SIGN}) {
        CHECK(quantized(kind, 1, 0.0f) == 1);
        CHECK(quantized(kind, 1, -0.0f) == 1);
        CHECK(quantized(kind, 1, -1e-40f) == -1);
        CHECK(quantized(kind, 1, kInfinity) == 1);
        CHECK(quantized(kind, 1, std::nanf("")) == 1);
    }
    CHECK(quantized(QCONV_STEHEAVISIDE, 1, 0.0f) == -1);
    CHECK(quantized(QCONV_STEHEAVISIDE, 1, 1e-40f) == 1);
    CHECK(quantized(QCONV_IDENTITY, 1, -2.5f) == -2.5);

    // 2 bits: thirds. 1/6 and 1/2 are ties: 1/6f * 3 rounds to 0.5, to the even 0; 1.5 to 2.
    CHECK(quantized(QCONV_INPUTDOREFA, 2, 1.0f / 6.0f) == 0);
    CHECK(quantized(QCONV_INPUTDOREFA, 2, 0.5f) == double{2.0f / 3.0f});
    CHECK(quantized(QCONV_INPUTDOREFA, 2, 7.0f) == 1);
    CHECK(quantized(QCONV_INPUTDOREFA, 2, -kInfinity) == 0);
    CHECK(quantized(QCONV_INPUTDOREFA, 8, 0.1f) == double{26.0f / 255.0f}); // 25.5 in float32, to the even 26
    CHECK(quantized(QCONV_INPUTDOREFA, 8, 0.3f) ==
          double{76.0f / 255.0f}); // 0.3f > 0.3, yet the product rounds to 76.5

    // The largest value maps to 1, its negative to -1; with 1 bit, 0 maps to level round(0.5) = 0, that is -1.
    const float top = std::tanh(2.0f);
    CHECK(quantized(QCONV_WEIGHTDOREFA, 4, 2.0f, top) == 1);
    CHECK(quantized(QCONV_WEIGHTDOREFA, 4, -2.0f, top) == -1);
    CHECK(quantized(QCONV_WEIGHTDOREFA, 1, 0.0f, top) == -1);
    CHECK(quantized(QCONV_WEIGHTDOREFA, 2, 0.0f, top) == Approx(1.0 / 3.0)); // 1.5 to the even 2: 2 * 2/3 - 1
    const float values[] = {0.5f, -2.0f, 1.0f};
    CHECK(reference::max_abs_tanh(values) == top);

    // scale 0: T = 0, hardtanh(v). scale 0.1, alpha 4, beta 10: 1 - T = 1/4, so that slopes are 4. scale 2: v / 1e-7.
    qconv_quantizer q = quantizer(QCONV_PROGRESSIVE_SIGN);
    q.training = 1;
    CHECK(reference::quantize(q, 0.25f, 0) == 0.25);
    CHECK(reference::quantize(q, -3.0f, 0) == -1);
    q.scale = 0.1f;
    CHECK(reference::quantize(q, 0.125f, 0) == Approx(0.5).epsilon(1e-6));
    q.scale = 2;
    CHECK(reference::quantize(q, 5e-8f, 0) == Approx(0.5).epsilon(1e-6));
    CHECK(reference::quantize(q, 0.0f, 0) == 0);
}

qconv_layer_config layer(qconv_layer_kind kind, const Shape &shape, qconv_quantizer input, qconv_quantizer weight,
                         float pad_value) {
    qconv_layer_config config{};
    config.kind = kind;
    apply(shape, config);
    config.input_quantization = config.input_next = input;
    config.weight_quantization = config.weight_next = weight;
    config.pad_value = pad_value;
    return config;
}

TEST_CASE("reference: a binary layer by hand", "[reference]") {
    const qconv_quantizer sign = quantizer(QCONV_SIGN);
    const Shape shape{1, 1, 3, 1, 1, 1, 1, 1, 1, 4, ""};
    const float x[] = {0.5f, -2.0f, -0.0f, -1.0f}; // + - + -
    const float w[] = {1.0f, -1.0f, 3.0f};         // + - +
    auto config = layer(QCONV_LAYER_QCONV1D, shape, sign, sign, -1.0f);
    // - + - + - -:  (-1-1-1)  (1+1+1)  (-1-1-1)  (1+1-1)
    CHECK(reference::forward(config, x, 1, 4, w, nullptr) == std::vector<double>{-3, 3, -3, 1});
    config.pad_value = 0.25f;
    CHECK(reference::forward(config, x, 1, 4, w, nullptr) == std::vector<double>{-1.75, 3, -3, 2.25});
    config.stride = 2;
    CHECK(reference::forward(config, x, 1, 4, w, nullptr) == std::vector<double>{-1.75, -3});
    const int64_t last[] = {1};
    CHECK(reference::forward(config, x, 1, 4, w, nullptr, last) == std::vector<double>{-3});
    config.stride = 1;
    config.dilation = 2; // columns -1 1 3, 0 2 4
    CHECK(reference::forward(config, x, 1, 4, w, nullptr) == std::vector<double>{0.25 + 1 - 1, 1 - 1 + 0.25});
    CHECK(reference::width_out(config, 2) == 0);
    CHECK(reference::width_out(config, 3) == 1);
}

TEST_CASE("reference: levels, groups and bias by hand", "[reference]") {
    // Two groups of one channel; inputs 2-bit levels 0 2 3 (of 3), weights 2-bit odd integers -3 and 3 (of 3).
    const Shape shape{2, 2, 1, 1, 0, 1, 1, 2, 1, 3, ""};
    const float x[] = {0.0f, 0.6f, 2.0f, 1.0f, 0.3f, 0.7f}; // levels 0 2 3, 3 1 2
    const float w[] = {-4.0f, 4.0f};
    const auto config =
        layer(QCONV_LAYER_QCONV1D, shape, quantizer(QCONV_INPUTDOREFA, 2), quantizer(QCONV_WEIGHTDOREFA, 2), 0.5f);
    CHECK(reference::forward(config, x, 1, 3, w, nullptr) ==
          std::vector<double>{0, -6.0 / 9, -1, -0.5, 1, 3.0 / 9, 6.0 / 9, 0.5});

    const auto plain = layer(QCONV_LAYER_CONV1D, Shape{2, 1, 2, 1, 1, 0, 1, 1, 1, 2, ""}, quantizer(QCONV_SIGN),
                             quantizer(QCONV_SIGN), 0.0f);
    const float input[] = {1, 2, 10, 20}, weight[] = {3, 5, 7, 11}, bias[] = {0.5f};
    CHECK(reference::forward(plain, input, 1, 2, weight, bias) ==
          std::vector<double>{5 + 110 + 0.5, 3 + 10 + 70 + 220 + 0.5});
}

/// conv(pad(qi(x)), qw(w)) literally: quantize, pad, convolve, with no levels and no separate padding term.
double by_definition(const LayerCase &c, int64_t n, int64_t o, int64_t w) {
    const qconv_layer_config &config = c.config();
    const Shape &s = c.shape();
    const bool plain = config.kind == QCONV_LAYER_CONV1D;
    const float x_max = reference::max_abs_tanh(c.x()), w_max = reference::max_abs_tanh(c.weight());
    const auto mixed = [](const qconv_quantizer &a, const qconv_quantizer &b, float mix, float v, float max) {
        if (mix == 0) return reference::quantize(a, v, max);
        if (mix == 1) return reference::quantize(b, v, max);
        return (1 - double{mix}) * reference::quantize(a, v, max) + double{mix} * reference::quantize(b, v, max);
    };
    const int64_t channels = s.in / s.groups, first = o / (s.out / s.groups) * channels;
    double sum = c.bias() == nullptr ? 0 : double{c.bias()[o]};
    for (int64_t ch = 0; ch < channels; ++ch) {
        for (int64_t k = 0; k < s.kernel; ++k) {
            const int64_t at = w * s.stride + k * s.dilation - s.left;
            double value = double{config.pad_value};
            if (at >= 0 && at < s.width) {
                const float v = c.x()[static_cast<size_t>((n * s.in + first + ch) * s.width + at)];
                value = config.kind != QCONV_LAYER_QCONV1D
                            ? double{v}
                            : mixed(config.input_quantization, config.input_next, config.input_mix, v, x_max);
            }
            const float v = c.weight()[static_cast<size_t>((o * channels + ch) * s.kernel + k)];
            sum += value * (plain ? double{v}
                                  : mixed(config.weight_quantization, config.weight_next, config.weight_mix, v, w_max));
        }
    }
    return sum;
}

TEST_CASE("reference: levels and padding terms agree with the definition", "[reference]") {
    for (const Shape &shape : kShapes) {
        if (!shape.thin || shape.width > 200 || shape.in * shape.kernel > 1000) continue;
        for (size_t p = 0; p < pairs().size(); ++p) {
            const float pad = pairs()[p].kind == QCONV_LAYER_CONV1D ? 0.0f : -0.3f;
            const LayerCase c(shape, pairs()[p], pad, Data::Random, p);
            const auto expected = reference::expect(c.config(), QCONV_PATH_F32F32, c.x().data(), shape.batch,
                                                    shape.width, c.weight().data(), c.bias());
            REQUIRE(static_cast<int64_t>(expected.y.size()) == c.y_size());
            for (int64_t i = 0; i < c.y_size(); i += 1 + c.y_size() / 40) {
                const int64_t w = i % c.width_out(), o = i / c.width_out() % shape.out,
                              n = i / c.width_out() / shape.out;
                const auto at = static_cast<size_t>(i);
                const double difference = std::abs(by_definition(c, n, o, w) - expected.y[at]);
                // The definition sums float32 quantizer results: off by the roundings inside them.
                if (difference > expected.tolerance[at] + 1e-12) {
                    FAIL_CHECK(c.describe() << ": output " << i << " differs by " << difference << "\n  "
                                            << replay("reference: levels and padding terms agree with the definition"));
                }
            }
        }
    }
}

TEST_CASE("reference: tolerances", "[reference]") {
    const Shape shape{4, 1, 3, 1, 1, 1, 1, 1, 1, 3, ""};
    const std::vector<float> x(12, 0.5f), w(12, -0.5f);
    const auto tolerance = [&](qconv_quantizer input, qconv_quantizer weight, float pad, qconv_path path) {
        return reference::tolerance(layer(QCONV_LAYER_QCONV1D, shape, input, weight, pad), path, x.data(), 1, 3,
                                    w.data(), nullptr);
    };
    const qconv_quantizer sign = quantizer(QCONV_SIGN), half = quantizer(QCONV_INPUTDOREFA, 4);
    for (const auto path : {QCONV_PATH_B1B1, QCONV_PATH_INT8, QCONV_PATH_F32B1, QCONV_PATH_F32F32}) {
        for (const float pad : {-1.0f, 0.0f, 0.5f})
            CHECK(tolerance(sign, sign, pad, path) == std::vector<double>(3, 0));
    }
    // 0.3f is no multiple of 1/256: the edge columns may round.
    const auto edges = tolerance(sign, sign, 0.3f, QCONV_PATH_B1B1);
    CHECK(edges[0] > edges[1]);
    CHECK(edges[0] < 1e-4);
    const auto scaled = tolerance(half, sign, 0.0f, QCONV_PATH_INT8);
    CHECK(scaled[1] == Approx(4 * 0x1p-24 * 12 * 8.0 / 15.0)); // y = -12 * 8/15
    const auto summed = tolerance(half, sign, 0.0f, QCONV_PATH_F32B1);
    CHECK(summed[1] == Approx(20 * 0x1p-24 * 12 * 8.0 / 15.0).epsilon(1e-5)); // gamma(12 + 8)

    reference::Expected expected{{1, 2}, {0, 0.5}};
    const float right[] = {1, 2.5f}, wrong[] = {1, 2.6f}, nan[] = {std::nanf(""), 2};
    CHECK(reference::first_mismatch(expected, right) == -1);
    CHECK(reference::first_mismatch(expected, wrong) == 1);
    CHECK(reference::first_mismatch(expected, nan) == 0);
}

} // namespace
} // namespace qconv::test
