#include "tools/oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <span>

namespace qconv::tools {
namespace {

/// Compares `expected` with the values of `got` [..., middle, length] at `places` (empty: all) and widens the verdict.
void compare(const reference::Expected &expected, const std::vector<float> &got, std::span<const int64_t> places,
             const char *name, int64_t middle, int64_t length, Verdict &verdict) {
    verdict.total += static_cast<int64_t>(got.size());
    verdict.checked += static_cast<int64_t>(expected.y.size());
    double worst = -1;
    for (std::size_t i = 0; i < expected.y.size(); i++) {
        const int64_t place = places.empty() ? static_cast<int64_t>(i) : places[i];
        const float value = got[static_cast<std::size_t>(place)];
        const double error = std::abs(expected.y[i] - static_cast<double>(value));
        const double over = error - expected.tolerance[i];
        if (!std::isnan(error)) verdict.max_error = std::max(verdict.max_error, error);
        verdict.max_tolerance = std::max(verdict.max_tolerance, expected.tolerance[i]);
        // Written so that a NaN is a problem.
        if (over <= 0 || over <= worst) continue;
        worst = std::isnan(over) ? INFINITY : over;
        const int64_t row = place / length;
        verdict.problem = fmt::format("{}[{}, {}, {}] is {:g}; it must be {:g} within {:.3g}", name, row / middle,
                                      row % middle, place % length, value, expected.y[i], expected.tolerance[i]);
    }
}

} // namespace

int64_t Oracle::affordable(double macs_of_one, int64_t least) const {
    return static_cast<int64_t>(std::clamp(macs_ / macs_of_one, static_cast<double>(least), 1e9));
}

std::vector<int64_t> Oracle::columns() const {
    const qconv_layer_config &c = config_;
    const int64_t width_out = reference::width_out(c, data_.width);
    const int64_t channels = c.in_channels / c.groups;
    const double column_macs = static_cast<double>(data_.batch) * static_cast<double>(c.out_channels) *
                               static_cast<double>(channels) * static_cast<double>(c.kernel_size);
    constexpr int64_t kLeastColumns = 8;
    const int64_t most = affordable(column_macs, kLeastColumns);
    std::vector<int64_t> all(static_cast<std::size_t>(width_out));
    std::iota(all.begin(), all.end(), int64_t{0});
    if (width_out <= most) return all;

    // The first column that does not reach over the left end, and the first that reaches over the right one.
    const int64_t left = std::min((c.pad_left + c.stride - 1) / c.stride, width_out);
    const int64_t reach = data_.width + c.pad_left - c.dilation * (c.kernel_size - 1) - 1;
    const int64_t right = std::clamp<int64_t>(reach >= 0 ? reach / c.stride + 1 : 0, 0, width_out);
    std::set<int64_t> chosen;
    for (const int64_t column : {int64_t{0}, left - 1, left, right - 1, right, width_out - 1}) {
        if (column >= 0 && column < width_out) chosen.insert(column);
    }
    if (left + width_out - right <= most) {
        chosen.insert(all.begin(), all.begin() + left);
        chosen.insert(all.begin() + right, all.end());
    }
    std::mt19937_64 random(seed_);
    std::uniform_int_distribution<int64_t> any(0, width_out - 1);
    while (static_cast<int64_t>(chosen.size()) < most)
        chosen.insert(any(random));
    return {chosen.begin(), chosen.end()};
}

Oracle::Sample Oracle::sample_forward(qconv_path path) const {
    const std::vector<int64_t> chosen = columns();
    Sample sample;
    sample.expected = reference::expect(config_, path, data_.x.data(), data_.batch, data_.width, data_.weight.data(),
                                        data_.bias_or_null(), chosen);
    const int64_t width_out = reference::width_out(config_, data_.width);
    for (int64_t row = 0; row < data_.batch * config_.out_channels; row++)
        for (const int64_t column : chosen)
            sample.places.push_back(row * width_out + column);
    return sample;
}

Oracle::Sample Oracle::sample_gradient(qconv_op op) const {
    constexpr int64_t kLeastElements = 64;
    const LayerData &d = data_;
    Sample sample;
    if (op == QCONV_OP_GRAD_INPUT) {
        const int64_t most = affordable(static_cast<double>(reference::grad_input_products(config_)), kLeastElements);
        sample.places = reference::sample_elements(d.batch * config_.in_channels, d.width, most, seed_);
        sample.expected = reference::expect_grad_input(config_, d.x.data(), d.grad_output.data(), d.batch, d.width,
                                                       d.weight.data(), sample.places);
    } else {
        const auto products = static_cast<double>(reference::grad_weight_products(config_, d.batch, d.width));
        const int64_t rows = config_.out_channels * (config_.in_channels / config_.groups);
        sample.places =
            reference::sample_elements(rows, config_.kernel_size, affordable(products, kLeastElements), seed_);
        sample.expected = reference::expect_grad_weight(config_, d.x.data(), d.grad_output.data(), d.batch, d.width,
                                                        d.weight.data(), sample.places);
    }
    return sample;
}

const Oracle::Sample &Oracle::sample(qconv_op op, qconv_path path) {
    // What a gradient may differ by does not depend on its path.
    if (op != QCONV_OP_FORWARD) path = QCONV_PATH_F32F32;
    const auto [place, fresh] = samples_.try_emplace({op, path});
    if (fresh) place->second = op == QCONV_OP_FORWARD ? sample_forward(path) : sample_gradient(op);
    return place->second;
}

Verdict Oracle::check(const LayerRun &run, qconv_op op) {
    const Sample &s = sample(op, run.kernel(op).path);
    Verdict verdict;
    switch (op) {
        case QCONV_OP_GRAD_INPUT:
            compare(s.expected, run.grad_input(), s.places, "grad_input", config_.in_channels, data_.width, verdict);
            break;
        case QCONV_OP_GRAD_WEIGHT:
            if (!run.grad_bias().empty()) {
                const reference::Expected bias =
                    reference::expect_grad_bias(config_, data_.grad_output.data(), data_.batch, data_.width);
                compare(bias, run.grad_bias(), {}, "grad_bias", config_.out_channels, 1, verdict);
            }
            compare(s.expected, run.grad_weight(), s.places, "grad_weight", config_.in_channels / config_.groups,
                    config_.kernel_size, verdict);
            break;
        default:
            compare(s.expected, run.y(), s.places, "y", config_.out_channels, run.width_out(), verdict);
    }
    return verdict;
}

std::string Oracle::check_state(const LayerRun &run) const {
    if (run.saved() != QCONV_SAVES_STATE) return "";
    const std::vector<uint32_t> expected = reference::saved_state(config_, data_.x.data(), data_.batch, data_.width);
    const std::vector<uint32_t> &got = run.state();
    if (got.size() != expected.size())
        return fmt::format("the state has {} words; it must have {}", got.size(), expected.size());
    const auto wrong = std::mismatch(got.begin(), got.end(), expected.begin());
    if (wrong.first == got.end()) return "";
    return fmt::format("word {} of the saved state is {:08x}; it must be {:08x}", wrong.first - got.begin(),
                       *wrong.first, *wrong.second);
}

} // namespace qconv::tools
