// The quantizer expressions of generators/quantizers.h, compiled in process by Halide, against bitorch's golden values
// and the oracle.
#include "generators/quantizers.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/golden.h"
#include "support/reference.h"

namespace qconv::test {
namespace {

using Halide::Buffer;
using Halide::Expr;

constexpr double kUnit = 0x1p-24;

struct GoldenQuantizer {
    std::string name;
    qconv_layer_config config; // a layer of one channel, one tap and identity weights
    std::vector<float> v, forward, gradient;
};

std::vector<GoldenQuantizer> golden_quantizers() {
    const Golden golden = read_golden("quantizers");
    std::vector<GoldenQuantizer> all;
    for (size_t i = 0; i < golden.layers.size(); ++i) {
        const auto count = golden.cases[i].at("count").get<std::ptrdiff_t>();
        const auto v = golden.data.begin() + golden.cases[i].at("offset").get<std::ptrdiff_t>();
        const auto forward = v + count, gradient = forward + count;
        all.push_back({golden.layers[i].name,
                       golden.layers[i].config,
                       {v, forward},
                       {forward, gradient},
                       {gradient, gradient + count}});
    }
    return all;
}

float levels(const qconv_quantizer &q) {
    return static_cast<float>((1 << q.bits) - 1);
}

/// What the runtime passes as Divisor (layout.h), computed here from the table's formulas.
float divisor(const qconv_quantizer &q) {
    const double temperature = 1.0 - std::pow(double{q.alpha}, -double{q.beta} * double{q.scale});
    return static_cast<float>(std::max(1.0 - temperature, 1e-7));
}

/// Evaluation makes progressive_sign a sign.
qconv_quantizer_kind effective_kind(const qconv_quantizer &q) {
    return q.kind == QCONV_PROGRESSIVE_SIGN && q.training == 0 ? QCONV_SIGN : q.kind;
}

/// The kinds that quantizers::forward() has cases for: sign stands for all that go forward as sign.
qconv_quantizer_kind forward_kind(const qconv_quantizer &q) {
    const qconv_quantizer_kind kind = effective_kind(q);
    return kind == QCONV_APPROXSIGN || kind == QCONV_SWISHSIGN ? QCONV_SIGN : kind;
}

Expr forward_of(const qconv_quantizer &q, const Expr &v) {
    switch (effective_kind(q)) {
        case QCONV_SIGN:
            return quantizers::sign(v);
        case QCONV_APPROXSIGN:
            return quantizers::approxsign(v);
        case QCONV_SWISHSIGN:
            return quantizers::swishsign(v);
        case QCONV_STEHEAVISIDE:
            return quantizers::steheaviside(v);
        case QCONV_INPUTDOREFA:
            return quantizers::inputdorefa(v, levels(q));
        case QCONV_PROGRESSIVE_SIGN:
            return quantizers::progressive_sign(v, divisor(q));
        default:
            return quantizers::identity(v);
    }
}

Expr gradient_of(const qconv_quantizer &q, const Expr &v) {
    switch (effective_kind(q)) {
        case QCONV_SIGN:
            return quantizers::sign_gradient(v);
        case QCONV_APPROXSIGN:
            return quantizers::approxsign_gradient(v);
        case QCONV_SWISHSIGN:
            return quantizers::swishsign_gradient(v, q.beta);
        case QCONV_STEHEAVISIDE:
            return quantizers::steheaviside_gradient(v);
        case QCONV_INPUTDOREFA:
            return quantizers::inputdorefa_gradient(v);
        case QCONV_PROGRESSIVE_SIGN:
            return quantizers::progressive_sign_gradient(v);
        default:
            return quantizers::identity_gradient(v);
    }
}

/// The numbers an expression in v gives.
class Evaluator {
public:
    explicit Evaluator(const std::vector<float> &v) : input_(static_cast<int>(v.size())) {
        std::copy(v.begin(), v.end(), input_.begin());
    }

    Halide::Var x{"x"}; ///< what the expressions are of, for stages of their own

    template <typename Build>
    std::vector<float> operator()(const Build &build) const {
        Halide::Func f;
        f(x) = Halide::cast<float>(build(input_(x)));
        // Two ways to compile an expression: lane by lane, and in vectors.
        Buffer<float> scalar = f.realize({input_.width()});
        f.vectorize(x, 8, Halide::TailStrategy::GuardWithIf);
        Buffer<float> vector = f.realize({input_.width()});
        for (int i = 0; i < input_.width(); ++i) {
            INFO("value " << input_(i) << ": " << scalar(i) << " alone, " << vector(i) << " in a vector");
            CHECK((scalar(i) == vector(i) || std::abs(scalar(i) - vector(i)) < 1e-5f ||
                   (std::isnan(scalar(i)) && std::isnan(vector(i)))));
        }
        return {vector.begin(), vector.end()};
    }

private:
    Buffer<float> input_;
};

/// Roundings of the surrogates: 16 at most, cosh(t) has a relative error of |t| roundings of its argument more.
double gradient_tolerance(const qconv_quantizer &q, double v) {
    if (q.kind != QCONV_SWISHSIGN) return 4 * kUnit;
    const double t = double{q.beta} * std::abs(v);
    return kUnit * (16 + 2 * t) * double{q.beta} * (2 + t) / (1 + std::cosh(t));
}

/// Signs and levels are exact; training forms, mixes and level / m have up to four roundings of values up to 1 or |v|.
double forward_tolerance(double expected) {
    return 4 * kUnit * std::max(1.0, std::abs(expected));
}

TEST_CASE("quantizers: forward and surrogate expressions give bitorch's values", "[quantizers][golden]") {
    for (const GoldenQuantizer &golden : golden_quantizers()) {
        const qconv_layer_config &c = golden.config;
        const qconv_quantizer &first = c.input_quantization, &next = c.input_next;
        // Not an expression: the runtime applies it (quantize_test.cpp).
        if (first.kind == QCONV_WEIGHTDOREFA || next.kind == QCONV_WEIGHTDOREFA) continue;
        const float mix = c.input_mix;
        const Evaluator evaluate(golden.v);
        const auto mixed = [&](const Expr &a, const Expr &b) {
            if (mix == 0) return a;
            return mix == 1 ? b : (1.0f - mix) * a + mix * b;
        };
        const auto forward = evaluate([&](const Expr &v) { return mixed(forward_of(first, v), forward_of(next, v)); });
        const auto selected = evaluate([&](const Expr &v) {
            const auto by = [&](const qconv_quantizer &q) -> Expr {
                return quantizers::forward("by", {evaluate.x}, int(forward_kind(q)), v, levels(q), divisor(q))
                    .stage(evaluate.x);
            };
            return mixed(by(first), by(next));
        });
        const auto gradient =
            evaluate([&](const Expr &v) { return mixed(gradient_of(first, v), gradient_of(next, v)); });
        const auto selected_gradient = evaluate([&](const Expr &v) {
            const auto by = [&](const qconv_quantizer &q) -> Expr {
                return quantizers::gradient("by", {evaluate.x}, int(q.kind), v, q.beta).stage(evaluate.x);
            };
            return mixed(by(first), by(next));
        });
        for (size_t i = 0; i < golden.v.size(); ++i) {
            const double expected = double{golden.forward[i]};
            INFO(golden.name << " of " << golden.v[i] << ": bitorch " << expected << ", got " << forward[i] << " and "
                             << selected[i] << "; gradient: bitorch " << golden.gradient[i] << ", got " << gradient[i]
                             << " and " << selected_gradient[i]);
            CHECK((expected == forward[i] || std::abs(forward[i] - expected) <= forward_tolerance(expected)));
            CHECK((expected == selected[i] || std::abs(selected[i] - expected) <= forward_tolerance(expected)));
            // bitorch's own surrogate is NaN where cosh overflows; ours may be anything there.
            if (std::isnan(golden.gradient[i])) continue;
            const double slack = (1 - double{mix}) * gradient_tolerance(first, double{golden.v[i]}) +
                                 double{mix} * gradient_tolerance(next, double{golden.v[i]}) + 2 * kUnit;
            CHECK(std::abs(gradient[i] - double{golden.gradient[i]}) <= slack);
            CHECK(std::abs(selected_gradient[i] - double{golden.gradient[i]}) <= slack);
        }
    }
}

TEST_CASE("quantizers: surrogates beyond their range, and of NaN", "[quantizers]") {
    constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> values{nan, infinity, -infinity, 3e38f, std::nextafter(1.0f, 2.0f), 1.0f, -1.0f, -0.0f};
    const Evaluator evaluate(values);
    for (const auto kind : {QCONV_APPROXSIGN, QCONV_STEHEAVISIDE}) {
        qconv_quantizer q{};
        q.kind = kind;
        const auto alone = evaluate([&](const Expr &v) { return gradient_of(q, v); });
        const auto selected = evaluate([&](const Expr &v) -> Expr {
            return quantizers::gradient("by", {evaluate.x}, int(kind), v, 5.0f).stage(evaluate.x);
        });
        for (size_t i = 0; i < values.size(); ++i) {
            INFO("kind " << kind << " at " << values[i]);
            const double expected = reference::surrogate(q, values[i]);
            CHECK(alone[i] == expected);
            CHECK(selected[i] == expected);
        }
    }
    const auto within = evaluate([](const Expr &v) { return quantizers::at_most(v, 1.0f); });
    CHECK(within == std::vector<float>{0, 0, 1, 0, 0, 1, 1, 1});
}

TEST_CASE("quantizers: the oracle gives bitorch's values", "[quantizers][golden]") {
    for (const GoldenQuantizer &golden : golden_quantizers()) {
        const qconv_layer_config &c = golden.config;
        const float one = 1.0f;
        const auto count = static_cast<int64_t>(golden.v.size());
        const auto y = reference::forward(c, golden.v.data(), 1, count, &one, nullptr);
        for (size_t i = 0; i < golden.v.size(); ++i) {
            const double expected = double{golden.forward[i]};
            INFO(golden.name << " of " << golden.v[i] << ": bitorch " << expected << ", oracle " << y[i]);
            CHECK((expected == y[i] || std::abs(y[i] - expected) <= forward_tolerance(expected)));
        }
    }
}

} // namespace
} // namespace qconv::test
