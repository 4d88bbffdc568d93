// The backward half of the oracle, against numbers worked out by hand, against differences of its forward half, and
// against the gradients' definition as a scatter. Against bitorch it is held in golden_backward_test.cpp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/catch.h"
#include "support/layer_case.h"
#include "support/reference.h"

namespace qconv::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNaN = std::nanf("");

qconv_layer_config layer(qconv_layer_kind kind, const Shape &shape, qconv_quantizer input, qconv_quantizer weight,
                         float threshold, float pad_value) {
    qconv_layer_config config{};
    config.kind = kind;
    apply(shape, config);
    config.input_quantization = config.input_next = input;
    config.weight_quantization = config.weight_next = weight;
    config.gradient_cancellation_threshold = threshold;
    config.pad_value = pad_value;
    return config;
}

using Values = std::vector<double>;

TEST_CASE("reference: surrogates", "[reference][backward]") {
    for (const auto kind :
         {QCONV_SIGN, QCONV_IDENTITY, QCONV_INPUTDOREFA, QCONV_WEIGHTDOREFA, QCONV_PROGRESSIVE_SIGN}) {
        for (const float v : {0.0f, -3.0f, 1e30f, kInfinity, kNaN})
            CHECK(reference::surrogate(quantizer(kind), v) == 1);
    }
    const float above = std::nextafter(1.0f, 2.0f);
    const qconv_quantizer step = quantizer(QCONV_STEHEAVISIDE), approx = quantizer(QCONV_APPROXSIGN);
    for (const float v : {1.0f, -1.0f, 0.0f, -0.0f})
        CHECK(reference::surrogate(step, v) == 1);
    for (const float v : {above, -above, kInfinity, kNaN}) {
        CHECK(reference::surrogate(step, v) == 0);
        CHECK(reference::surrogate(approx, v) == 0);
    }
    CHECK(reference::surrogate(approx, -0.0f) == 2);
    CHECK(reference::surrogate(approx, 0.25f) == 1.5);
    CHECK(reference::surrogate(approx, -0.25f) == 1.5);
    CHECK(reference::surrogate(approx, 1.0f) == 0);
    const qconv_quantizer swish = quantizer(QCONV_SWISHSIGN); // beta 5
    CHECK(reference::surrogate(swish, 0.0f) == 5);
    const double t = 2.5; // 5 * (2 - t tanh(t/2)) / (1 + cosh t)
    CHECK(reference::surrogate(swish, 0.5f) == Approx(5 * (2 - t * std::tanh(t / 2)) / (1 + std::cosh(t))));
    CHECK(reference::surrogate(swish, -0.5f) == reference::surrogate(swish, 0.5f));
    CHECK(std::abs(reference::surrogate(swish, 1e30f)) < 1e-30);
    CHECK(std::isnan(reference::surrogate(swish, kNaN)));
}

TEST_CASE("reference: gradients by hand", "[reference][backward]") {
    const qconv_quantizer sign = quantizer(QCONV_SIGN), approx = quantizer(QCONV_APPROXSIGN);
    const Shape shape{1, 1, 3, 1, 1, 1, 1, 1, 1, 4, ""};
    const float x[] = {0.5f, -2.0f, -0.0f, -1.0f}; // + - + -
    const float w[] = {1.0f, -0.5f, 3.0f};         // + - +
    const float gy[] = {1, 10, 100, 1000};
    auto config = layer(QCONV_LAYER_QCONV1D, shape, sign, sign, kNaN, -1.0f);
    // gx[i] = gy[i+1] w0 + gy[i] w1 + gy[i-1] w2
    CHECK(reference::expect_grad_input(config, x, gy, 1, 4, w).y ==
          Values{10 - 1, 100 - 10 + 1, 1000 - 100 + 10, -900});
    config.gradient_cancellation_threshold = 1; // stops -2, not -1
    CHECK(reference::expect_grad_input(config, x, gy, 1, 4, w).y == Values{9, 0, 910, -900});
    config.gradient_cancellation_threshold = 0; // passes zeros alone
    CHECK(reference::expect_grad_input(config, x, gy, 1, 4, w).y == Values{0, 0, 910, 0});
    // Padded and quantized, x is - + - + - -.
    CHECK(reference::expect_grad_weight(config, x, gy, 1, 4, w).y ==
          Values{-1 + 10 - 100 + 1000, 1 - 10 + 100 - 1000, -1 + 10 - 100 - 1000});
    config.pad_value = 0.5f;
    CHECK(reference::expect_grad_weight(config, x, gy, 1, 4, w).y[0] == 0.5 + 10 - 100 + 1000);
    config.weight_quantization = approx; // surrogates 0, 1, 0 at the weights
    CHECK(reference::expect_grad_weight(config, x, gy, 1, 4, w).y == Values{0, 1 - 10 + 100 - 1000, 0});
    config.input_quantization = approx;
    config.gradient_cancellation_threshold = kNaN; // surrogates 1 0 2 0
    CHECK(reference::expect_grad_input(config, x, gy, 1, 4, w).y == Values{9, 0, 2 * 910, 0});
    config.input_next = sign;
    config.input_mix = 0.25f; // 0.75 approxsign + 0.25
    CHECK(reference::expect_grad_input(config, x, gy, 1, 4, w).y == Values{9, 91 * 0.25, 1.75 * 910, -900 * 0.25});
    const int64_t some[] = {2, 0};
    CHECK(reference::expect_grad_input(config, x, gy, 1, 4, w, some).y == Values{1.75 * 910, 9});

    // Stride 2 and dilation 2: column j reads x[2j - 1], x[2j + 1], x[2j + 3].
    const auto plain = layer(QCONV_LAYER_CONV1D, Shape{1, 1, 3, 2, 1, 1, 2, 1, 1, 5, ""}, sign, sign, 0, 0.0f);
    const float v[] = {1, 2, 3, 4, 5}, kernel[] = {3, 5, 7}, g[] = {1, 10};
    REQUIRE(reference::width_out(plain, 5) == 2);
    CHECK(reference::expect_grad_input(plain, v, g, 1, 5, kernel).y == Values{0, 5 + 30, 0, 7 + 50, 0});
    CHECK(reference::expect_grad_weight(plain, v, g, 1, 5, kernel).y == Values{20, 2 + 40, 4});
    CHECK(reference::expect_grad_bias(plain, g, 1, 5).y == Values{11});
}

TEST_CASE("reference: saved state by hand", "[reference][backward]") {
    const Shape shape{2, 1, 1, 1, 0, 0, 1, 1, 1, 33, ""};
    std::vector<float> x(66, -0.25f);
    x[0] = 0.0f, x[1] = -0.0f, x[2] = 1.5f, x[3] = kNaN, x[32] = 1.0f; // channel 0
    x[33 + 31] = 0.5f, x[33 + 32] = -2.0f;                             // channel 1
    const auto state = [&](qconv_quantizer_kind kind, float threshold) {
        return reference::saved_state(
            layer(QCONV_LAYER_QCONV1D, shape, quantizer(kind), quantizer(QCONV_SIGN), threshold, 0), x.data(), 1, 33);
    };
    constexpr uint32_t all = 0xffffffffu;
    // For each channel, two words of signs and two of the mask.
    CHECK(state(QCONV_SIGN, kNaN) == std::vector<uint32_t>{0xf, 1, all, 1, 1u << 31, 0, all, 1});
    CHECK(state(QCONV_SIGN, 1) == std::vector<uint32_t>{0xf, 1, all & ~0xcu, 1, 1u << 31, 0, all, 0});
    CHECK(state(QCONV_SIGN, 0.25f) == std::vector<uint32_t>{0xf, 1, all & ~0xcu, 0, 1u << 31, 0, all >> 1, 0});
    CHECK(state(QCONV_STEHEAVISIDE, kNaN) == std::vector<uint32_t>{0x4, 1, all & ~0xcu, 1, 1u << 31, 0, all, 0});
}

/// Integer data for a layer that quantizes nothing: its gradients are differences of its outputs, exactly.
TEST_CASE("reference: gradients of what is not quantized are differences of outputs", "[reference][backward]") {
    const qconv_quantizer identity = quantizer(QCONV_IDENTITY);
    for (const Shape &shape : kShapes) {
        if (!shape.thin || shape.width > 60 || shape.in * shape.kernel > 200 || shape.batch == 0) continue;
        for (const auto kind : {QCONV_LAYER_CONV1D, QCONV_LAYER_NOACT, QCONV_LAYER_QCONV1D}) {
            const float pad = kind == QCONV_LAYER_CONV1D ? 0.0f : 0.5f;
            const auto config = layer(kind, shape, identity, identity, kNaN, pad);
            Random random(static_cast<uint64_t>(&shape - kShapes), 7);
            const auto integers = [&](int64_t count) {
                std::vector<float> values(static_cast<size_t>(count));
                for (float &v : values)
                    v = static_cast<float>(random.below(9) - 4);
                return values;
            };
            std::vector<float> x = integers(shape.batch * shape.in * shape.width);
            std::vector<float> w = integers(shape.out * (shape.in / shape.groups) * shape.kernel);
            const std::vector<float> gy = integers(shape.batch * shape.out * reference::width_out(config, shape.width));
            const auto loss = [&] {
                const auto y = reference::forward(config, x.data(), shape.batch, shape.width, w.data(), nullptr);
                return std::inner_product(y.begin(), y.end(), gy.begin(), 0.0);
            };
            const auto gx =
                reference::expect_grad_input(config, x.data(), gy.data(), shape.batch, shape.width, w.data());
            const auto gw =
                reference::expect_grad_weight(config, x.data(), gy.data(), shape.batch, shape.width, w.data());
            REQUIRE(gx.y.size() == x.size());
            REQUIRE(gw.y.size() == w.size());
            const double before = loss();
            INFO(describe(shape));
            for (int i = 0; i < 6; ++i) {
                for (auto [values, gradient] : {std::pair{&x, &gx.y}, std::pair{&w, &gw.y}}) {
                    const auto at = static_cast<size_t>(random.below(static_cast<int64_t>(values->size())));
                    (*values)[at] += 1;
                    CHECK(loss() - before == (*gradient)[at]);
                    (*values)[at] -= 1;
                }
            }
        }
    }
}

/// Both gradients as their definition has them: every product of the convolution hands its share back.
struct Scattered {
    Values input, weight;

    explicit Scattered(const LayerCase &c, const std::vector<float> &gy)
        : input(c.x().size(), 0), weight(c.weight().size(), 0) {
        const qconv_layer_config &config = c.config();
        const Shape &s = c.shape();
        const bool plain = config.kind == QCONV_LAYER_CONV1D, activates = config.kind == QCONV_LAYER_QCONV1D;
        const float x_max = reference::max_abs_tanh(c.x()), w_max = reference::max_abs_tanh(c.weight());
        const auto mixed = [](float mix, double first, double next) {
            return mix == 0 ? first : mix == 1 ? next : (1 - double{mix}) * first + double{mix} * next;
        };
        const int64_t channels = s.in / s.groups, outputs = s.out / s.groups;
        for (int64_t o = 0; o < s.out; ++o)
            for (int64_t ch = 0; ch < channels; ++ch)
                for (int64_t k = 0; k < s.kernel; ++k) {
                    const auto wi = static_cast<size_t>((o * channels + ch) * s.kernel + k);
                    const float v = c.weight()[wi];
                    const double w =
                        plain ? double{v}
                              : mixed(config.weight_mix, reference::quantize(config.weight_quantization, v, w_max),
                                      reference::quantize(config.weight_next, v, w_max));
                    const double dw =
                        plain ? 1
                              : mixed(config.weight_mix, reference::surrogate(config.weight_quantization, v),
                                      reference::surrogate(config.weight_next, v));
                    for (int64_t n = 0; n < s.batch; ++n)
                        for (int64_t j = 0; j < c.width_out(); ++j) {
                            const double g = double{gy[static_cast<size_t>((n * s.out + o) * c.width_out() + j)]};
                            const int64_t at = j * s.stride + k * s.dilation - s.left;
                            if (at < 0 || at >= s.width) {
                                weight[wi] += dw * g * double{config.pad_value};
                                continue;
                            }
                            const auto xi =
                                static_cast<size_t>((n * s.in + o / outputs * channels + ch) * s.width + at);
                            const float u = c.x()[xi];
                            weight[wi] += dw * g *
                                          (!activates ? double{u}
                                                      : mixed(config.input_mix,
                                                              reference::quantize(config.input_quantization, u, x_max),
                                                              reference::quantize(config.input_next, u, x_max)));
                            const float threshold = config.gradient_cancellation_threshold;
                            if (activates && threshold >= 0 && !(std::abs(u) <= threshold)) continue;
                            input[xi] += w * g *
                                         (!activates ? 1
                                                     : mixed(config.input_mix,
                                                             reference::surrogate(config.input_quantization, u),
                                                             reference::surrogate(config.input_next, u)));
                        }
                }
    }
};

TEST_CASE("reference: gradients agree with the definition", "[reference][backward]") {
    int64_t compared = 0;
    for (const Shape &shape : kShapes) {
        if (!shape.thin || shape.width > 150 || shape.in * shape.kernel > 700) continue;
        for (size_t p = 0; p < pairs().size(); ++p) {
            LayerCase c(shape, pairs()[p], pairs()[p].kind == QCONV_LAYER_CONV1D ? 0.0f : -0.3f, Data::Random, p);
            c.set_threshold(p % 3 == 0 ? kNaN : p % 3 == 1 ? 1.0f : 0.5f);
            std::vector<float> gy(static_cast<size_t>(c.y_size()));
            Random random(p, 3);
            for (float &v : gy)
                v = random.bell();
            const Scattered scattered(c, gy);
            const auto gx = reference::expect_grad_input(c.config(), c.x().data(), gy.data(), shape.batch, shape.width,
                                                         c.weight().data());
            const auto gw = reference::expect_grad_weight(c.config(), c.x().data(), gy.data(), shape.batch, shape.width,
                                                          c.weight().data());
            REQUIRE(gx.y.size() == scattered.input.size());
            REQUIRE(gw.y.size() == scattered.weight.size());
            const auto compare = [&](const char *what, const reference::Expected &oracle, const Values &definition) {
                for (size_t i = 0; i < definition.size(); ++i) {
                    if (std::isnan(oracle.y[i])) continue; // infinities have no derivative in swishsign
                    ++compared;
                    if (std::abs(definition[i] - oracle.y[i]) <= oracle.tolerance[i] + 1e-12) continue;
                    FAIL_CHECK(c.describe()
                               << ": " << what << ' ' << i << " is " << oracle.y[i] << ", by definition "
                               << definition[i] << "\n  " << replay("reference: gradients agree with the definition"));
                    return;
                }
            };
            compare("grad_input", gx, scattered.input);
            compare("grad_weight", gw, scattered.weight);
        }
    }
    CHECK(compared > 100'000);
}

TEST_CASE("reference: tolerances of gradients", "[reference][backward]") {
    const qconv_quantizer sign = quantizer(QCONV_SIGN), approx = quantizer(QCONV_APPROXSIGN),
                          identity = quantizer(QCONV_IDENTITY);
    const Shape shape{2, 3, 3, 1, 1, 1, 1, 1, 1, 5, ""};
    const std::vector<float> x(10, 0.3f), w(18, -0.7f);
    std::vector<float> gy(15, 2.0f);
    const auto input = [&](qconv_quantizer a, qconv_quantizer b) {
        return reference::expect_grad_input(layer(QCONV_LAYER_QCONV1D, shape, a, b, 1, -1), x.data(), gy.data(), 1, 5,
                                            w.data());
    };
    const auto weight = [&](qconv_quantizer a, qconv_quantizer b, float pad) {
        return reference::expect_grad_weight(layer(QCONV_LAYER_QCONV1D, shape, a, b, 1, pad), x.data(), gy.data(), 1, 5,
                                             w.data());
    };
    CHECK(input(sign, sign).tolerance == Values(10, 0));
    CHECK(weight(sign, sign, 0.5f).tolerance == Values(18, 0));
    CHECK(weight(sign, sign, 0.3f).tolerance[0] > 0); // not a multiple of 2^-8
    const auto factor = input(approx, sign);          // 2 - 2 * 0.3f = 1.4, of a sum of 9 times -2
    CHECK(factor.y[2] == Approx(1.4 * -18));
    CHECK(factor.tolerance[2] == Approx(2 * 0x1p-24 * 1.4 * 18));
    const double gamma = (5 + 8) * 0x1p-24;
    CHECK(weight(identity, sign, 0).tolerance[1] == Approx(gamma * 5 * 2 * 0.3).epsilon(1e-4));
    gy[0] = 0.1f;                                                                             // not a multiple either
    CHECK(input(sign, sign).tolerance[9] == Approx((9 + 8) * 0x1p-24 * 6 * 2).epsilon(1e-4)); // two of three taps
    CHECK(weight(sign, sign, -1).tolerance[0] > 0);
}

TEST_CASE("reference: sampled elements", "[reference][backward]") {
    CHECK(reference::sample_elements(3, 5, 15, 1).empty());
    const auto some = reference::sample_elements(100, 1000, 600, 1);
    CHECK(some == reference::sample_elements(100, 1000, 600, 1));
    CHECK(some != reference::sample_elements(100, 1000, 600, 2));
    CHECK(some.size() > 500);
    CHECK(some.size() <= 600);
    CHECK(std::is_sorted(some.begin(), some.end()));
    CHECK(std::adjacent_find(some.begin(), some.end()) == some.end());
    CHECK(some.front() >= 0);
    CHECK(some.back() < 100'000);
    const auto count = [&](int64_t from, int64_t to) {
        return std::count_if(some.begin(), some.end(), [&](int64_t i) { return i % 1000 >= from && i % 1000 < to; });
    };
    CHECK(count(0, 4) > 20);
    CHECK(count(996, 1000) > 20);
    CHECK(count(250, 750) > 80);
}

} // namespace
} // namespace qconv::test
