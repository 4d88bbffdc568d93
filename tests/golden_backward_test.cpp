// The golden gradients of tests/golden, made by the real bitorch, on every target this CPU supports.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/golden.h"
#include "support/reference.h"
#include "support/targets.h"
#include "support/training.h"

namespace qconv::test {
namespace {

/// One case of backward.json, its parts found in the data.
struct BackwardCase {
    const tools::LayerSpec *layer;
    int64_t batch, width;
    bool exact;
    TrainingData data;
    Gradients bitorch;
};

std::vector<BackwardCase> backward_cases(const Golden &golden) {
    std::vector<BackwardCase> cases;
    for (size_t n = 0; n < golden.layers.size(); n++) {
        const tools::LayerSpec &layer = golden.layers[n];
        const qconv_layer_config &config = layer.config;
        const nlohmann::json &facts = golden.cases[n];
        BackwardCase &c = cases.emplace_back();
        c.layer = &layer;
        c.batch = facts.at("batch"), c.width = facts.at("width"), c.exact = facts.at("exact");
        const float *at = golden.data.data() + facts.at("offset").get<int64_t>();
        const auto take = [&](std::vector<float> &part, int64_t count) {
            part.assign(at, at + count);
            at += count;
        };
        const int64_t inputs = c.batch * config.in_channels * c.width;
        const int64_t weights = config.out_channels * (config.in_channels / config.groups) * config.kernel_size;
        take(c.data.x, inputs);
        take(c.data.weight, weights);
        take(c.data.grad_output, c.batch * config.out_channels * facts.at("width_out").get<int64_t>());
        take(c.bitorch.input, inputs);
        take(c.bitorch.weight, weights);
        if (layer.bias) take(c.bitorch.bias, config.out_channels);
        // bitorch's results do not depend on it.
        if (layer.bias) c.data.bias.assign(static_cast<size_t>(config.out_channels), 0.25f);
    }
    return cases;
}

struct ExpectedGradients {
    reference::Expected input, weight, bias;
};

ExpectedGradients expect(const BackwardCase &c) {
    const qconv_layer_config &config = c.layer->config;
    const float *x = c.data.x.data(), *gy = c.data.grad_output.data(), *w = c.data.weight.data();
    ExpectedGradients expected{reference::expect_grad_input(config, x, gy, c.batch, c.width, w),
                               reference::expect_grad_weight(config, x, gy, c.batch, c.width, w),
                               {}};
    if (c.layer->bias) expected.bias = reference::expect_grad_bias(config, gy, c.batch, c.width);
    return expected;
}

/// Compares numbers with bitorch's. `share` times the oracle's tolerance is allowed: bitorch rounds too.
struct Comparison {
    int64_t compared = 0, exact = 0, undefined = 0;

    template <typename Number>
    void operator()(const char *what, const std::vector<Number> &got, const std::vector<float> &bitorch,
                    const reference::Expected &expected, double share) {
        REQUIRE(got.size() == bitorch.size());
        REQUIRE(expected.tolerance.size() == bitorch.size());
        for (size_t i = 0; i < got.size(); ++i) {
            if (std::isnan(bitorch[i])) { // surrogates of infinite and huge values, nowhere else
                ++undefined;
                continue;
            }
            ++compared;
            const double error = std::abs(static_cast<double>(got[i]) - double{bitorch[i]});
            const double allowed = share * expected.tolerance[i];
            if (expected.tolerance[i] == 0) ++exact;
            if (!(error <= allowed)) {
                FAIL_CHECK(what << '[' << i << "] is " << got[i] << ", bitorch " << bitorch[i] << ", off by " << error
                                << " where " << allowed << " is allowed");
                return;
            }
        }
    }
};

TEST_CASE("golden: the oracle gives bitorch's gradients", "[golden][backward]") {
    const Golden golden = read_golden("backward");
    Comparison compare;
    for (const BackwardCase &c : backward_cases(golden)) {
        INFO(c.layer->name);
        const ExpectedGradients expected = expect(c);
        compare("grad_input", expected.input.y, c.bitorch.input, expected.input, 1);
        compare("grad_weight", expected.weight.y, c.bitorch.weight, expected.weight, 1);
        if (c.layer->bias) compare("grad_bias", expected.bias.y, c.bitorch.bias, expected.bias, 1);
        if (!c.exact) continue;
        // The factor of approxsign and swishsign is not exact, the sums it multiplies are.
        const auto exact = [](const qconv_quantizer &q) {
            return q.kind != QCONV_APPROXSIGN && q.kind != QCONV_SWISHSIGN;
        };
        const auto all_zero = [](const reference::Expected &e) {
            return std::all_of(e.tolerance.begin(), e.tolerance.end(), [](double t) { return t == 0; });
        };
        const qconv_layer_config &config = c.layer->config;
        if (exact(config.input_quantization) && config.input_mix == 0) CHECK(all_zero(expected.input));
        if (exact(config.weight_quantization) && config.weight_mix == 0) CHECK(all_zero(expected.weight));
    }
    CHECK(compare.compared > 25'000);
    CHECK(compare.exact > compare.compared / 4);
    CHECK(compare.undefined < compare.compared / 100);
}

TEST_CASE("golden: layers give bitorch's gradients", "[golden][backward]") {
    const Golden golden = read_golden("backward");
    const std::vector<BackwardCase> cases = backward_cases(golden);
    REQUIRE(cases.size() >= 120);
    std::vector<std::string> targets = runnable_targets();
    targets.emplace_back(); // the registry's own choice
    GuardedTraining guarded;
    Comparison compare;
    for (const BackwardCase &c : cases) {
        const ExpectedGradients expected = expect(c);
        for (const std::string &target : targets) {
            INFO(c.layer->name << " on " << (target.empty() ? "the best kernel" : target));
            const std::string kernel = "@" + target;
            qconv_layer_config config = c.layer->config;
            config.directions = QCONV_TRAINING;
            if (!target.empty()) config.kernel = config.grad_input_kernel = config.grad_weight_kernel = kernel.c_str();
            qconv_layer *created = nullptr;
            const qconv_status status = qconv_layer_create(
                &config, c.data.weight.data(), c.data.bias.empty() ? nullptr : c.data.bias.data(), &created);
            INFO(qconv_last_error());
            REQUIRE(status == QCONV_OK);
            const LayerPtr layer(created);
            const std::string error = guarded.step(created, config, c.data, c.batch, c.width, StepOptions{});
            CHECK(error == "");
            if (!error.empty()) continue;
            compare("grad_input", guarded.gradients().input, c.bitorch.input, expected.input, 2);
            compare("grad_weight", guarded.gradients().weight, c.bitorch.weight, expected.weight, 2);
            if (c.layer->bias) compare("grad_bias", guarded.gradients().bias, c.bitorch.bias, expected.bias, 2);
        }
    }
    CHECK(compare.compared > 25'000 * static_cast<int64_t>(targets.size()));
}

TEST_CASE("golden: the oracle gives bitorch's surrogates", "[golden][backward]") {
    const Golden golden = read_golden("quantizers");
    for (size_t n = 0; n < golden.layers.size(); n++) {
        qconv_layer_config config = golden.layers[n].config;
        config.gradient_cancellation_threshold = std::nanf("");
        const auto count = golden.cases[n].at("count").get<int64_t>();
        const float *v = golden.data.data() + golden.cases[n].at("offset").get<int64_t>();
        const std::vector<float> bitorch(v + 2 * count, v + 3 * count), ones(static_cast<size_t>(count), 1.0f);
        const float one = 1;
        const auto expected = reference::expect_grad_input(config, v, ones.data(), 1, count, &one);
        INFO(golden.layers[n].name);
        Comparison compare;
        compare("surrogate", expected.y, bitorch, expected, 1);
        CHECK(compare.compared > count / 2);
    }
}

} // namespace
} // namespace qconv::test
