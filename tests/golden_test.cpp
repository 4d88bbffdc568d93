// Every golden vector of tests/golden, made by the real bitorch, on every target this CPU supports.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "support/golden.h"
#include "support/reference.h"
#include "support/targets.h"

namespace qconv::test {
namespace {

using tools::LayerSpec;
using Json = nlohmann::json;

/// Output of a layer on one target, or with its kernel of choice where the target is empty.
std::vector<float> run(qconv_layer_config config, const std::string &target, const float *weight, const float *bias,
                       const float *x, int64_t batch, int64_t width, int64_t width_out) {
    const std::string kernel = "@" + target;
    if (!target.empty()) config.kernel = kernel.c_str();
    qconv_layer *created = nullptr;
    const qconv_status status = qconv_layer_create(&config, weight, bias, &created);
    INFO(qconv_last_error());
    REQUIRE(status == QCONV_OK);
    const std::unique_ptr<qconv_layer, void (*)(qconv_layer *)> layer(created, qconv_layer_destroy);
    if (!target.empty()) REQUIRE(qconv_layer_kernel(layer.get(), QCONV_FORWARD)->target == target);
    int64_t columns = 0;
    REQUIRE(qconv_layer_width_out(layer.get(), width, &columns) == QCONV_OK);
    REQUIRE(columns == width_out);
    std::vector<float> y(static_cast<size_t>(batch * config.out_channels * columns), std::nanf(""));
    REQUIRE(qconv_layer_forward(layer.get(), x, batch, width, y.data(), nullptr, 0) == QCONV_OK);
    return y;
}

/// Index of the value furthest outside its tolerance, or -1.
template <typename Number, typename Tolerance>
int64_t worst(const std::vector<Number> &y, const float *expected, Tolerance tolerance) {
    int64_t at = -1;
    double excess = 0;
    for (size_t i = 0; i < y.size(); i++) {
        const double over = std::abs(double{y[i]} - double{expected[i]}) - tolerance(expected[i]);
        if (over <= excess && !std::isnan(y[i])) continue;
        at = static_cast<int64_t>(i);
        if (std::isnan(y[i])) break;
        excess = over;
    }
    return at;
}

/// One case of forward.json, its parts found in the data.
struct ForwardCase {
    const LayerSpec *layer;
    int64_t batch, width, width_out;
    const float *x, *weight, *bias, *expected; // bias may be null
    double limit;                              // how far from bitorch's a correct output may be
};

std::vector<ForwardCase> forward_cases(const Golden &golden) {
    std::vector<ForwardCase> cases;
    for (size_t n = 0; n < golden.layers.size(); n++) {
        const LayerSpec &layer = golden.layers[n];
        const Json &facts = golden.cases[n];
        ForwardCase &c = cases.emplace_back();
        c.layer = &layer;
        c.batch = facts.at("batch"), c.width = facts.at("width"), c.width_out = facts.at("width_out");
        const int64_t window = layer.config.in_channels / layer.config.groups * layer.config.kernel_size;
        c.x = golden.data.data() + facts.at("offset").get<int64_t>();
        c.weight = c.x + c.batch * layer.config.in_channels * c.width;
        c.bias = layer.bias ? c.weight + layer.config.out_channels * window : nullptr;
        c.expected = c.weight + layer.config.out_channels * (window + (layer.bias ? 1 : 0));
        // Two sums of `window` products in different orders, each operand up to a few roundings from exact.
        const double roundings = 2 * (static_cast<double>(window) + 8) * std::ldexp(1.0, -24);
        c.limit = facts.at("exact").get<bool>() ? 0.0 : roundings * facts.at("magnitude").get<double>();
    }
    return cases;
}

TEST_CASE("The oracle gives bitorch's outputs", "[golden]") {
    const Golden golden = read_golden("forward");
    for (const ForwardCase &c : forward_cases(golden)) {
        INFO(c.layer->name);
        const std::vector<double> sums = reference::forward(c.layer->config, c.x, c.batch, c.width, c.weight, c.bias);
        CHECK(worst(sums, c.expected, [&](float) { return c.limit; }) == -1);
    }
}

TEST_CASE("Layers give bitorch's outputs", "[golden]") {
    const Golden golden = read_golden("forward");
    const std::vector<ForwardCase> cases = forward_cases(golden);
    REQUIRE(cases.size() >= 120);
    std::vector<std::string> targets = runnable_targets();
    targets.emplace_back(); // the registry's own choice
    for (const ForwardCase &c : cases) {
        for (const std::string &target : targets) {
            INFO(c.layer->name << " on " << (target.empty() ? "the best kernel" : target));
            const std::vector<float> y =
                run(c.layer->config, target, c.weight, c.bias, c.x, c.batch, c.width, c.width_out);
            const int64_t at = worst(y, c.expected, [&](float) { return c.limit; });
            INFO("at " << at << ": " << (at < 0 ? 0.0F : y[static_cast<size_t>(at)]) << ", bitorch "
                       << (at < 0 ? 0.0F : c.expected[at]) << ", tolerance " << c.limit);
            CHECK(at == -1);
        }
    }
}

TEST_CASE("Quantizers give bitorch's values", "[golden]") {
    const Golden golden = read_golden("quantizers");
    const float one = 1;
    for (size_t n = 0; n < golden.layers.size(); n++) {
        const LayerSpec &layer = golden.layers[n];
        const auto count = golden.cases[n].at("count").get<int64_t>();
        const float *values = golden.data.data() + golden.cases[n].at("offset").get<int64_t>();
        const float *expected = values + count;
        for (const std::string &target : runnable_targets()) {
            INFO(layer.name << " on " << target);
            const std::vector<float> y = run(layer.config, target, &one, nullptr, values, 1, count, count);
            // Four roundings of a value of this size, or of 1 where two such values are subtracted.
            const int64_t at =
                worst(y, expected, [](float v) { return 4 * std::ldexp(std::max(1.0, std::abs(double{v})), -24); });
            INFO("at " << at << ": " << (at < 0 ? 0.0F : y[static_cast<size_t>(at)]) << ", bitorch "
                       << (at < 0 ? 0.0F : expected[at]) << ", value " << (at < 0 ? 0.0F : values[at]));
            CHECK(at == -1);
        }
    }
}

} // namespace
} // namespace qconv::test
