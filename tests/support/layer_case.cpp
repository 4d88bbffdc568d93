#include "support/layer_case.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "runtime/workspace.h"

namespace qconv::test {
namespace {

/// The first and last columns, where padding is, and random ones between; `count` at most, rising.
std::vector<int64_t> sample_columns(int64_t width_out, int64_t count, Random &random) {
    if (count >= width_out) return {};
    std::vector<int64_t> columns;
    for (int64_t i = 0; i < count / 3; ++i) {
        columns.push_back(i);
        columns.push_back(width_out - 1 - i);
    }
    while (static_cast<int64_t>(columns.size()) < count)
        columns.push_back(random.below(width_out));
    std::sort(columns.begin(), columns.end());
    columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
    return columns;
}

} // namespace

void force_kernel(qconv_layer_config &config, const qconv_kernel &kernel, std::string &name) {
    name = std::string(kernel.name) + "@" + kernel.target;
    config.kernel = name.c_str();
}

LayerCase::LayerCase(const Shape &shape, const Pair &pair, float pad_value, Data data, uint64_t stream,
                     int64_t products)
    : shape_(shape), pair_name_(pair.name), data_(data) {
    qconv_layer_config_init(&config_, pair.kind);
    apply(pair, config_);
    test::apply(shape, config_);
    config_.width = shape.width; // so that the layer names the kernel that its call takes
    config_.pad_value = pad_value;
    Random random(stream, 1);
    x_ = make_input(config_, shape.batch * shape.in * shape.width, data, random);
    weight_ = make_weight(config_, data, random);
    if (pair.bias) bias_ = make_bias(config_, random);
    width_out_ = reference::width_out(config_, shape.width);
    const int64_t per_column = std::max<int64_t>(1, shape.batch * shape.out * (shape.in / shape.groups) * shape.kernel);
    positions_ = sample_columns(width_out_, std::max<int64_t>(6, products / per_column), random);
}

LayerPtr LayerCase::create(const qconv_kernel *kernel, std::string *error) const {
    qconv_layer_config config = config_;
    std::string name;
    if (kernel != nullptr) force_kernel(config, *kernel, name);
    qconv_layer *layer = nullptr;
    if (qconv_layer_create(&config, weight_.data(), bias(), &layer) != QCONV_OK) {
        if (error != nullptr) *error = qconv_last_error();
        return nullptr;
    }
    return LayerPtr(layer);
}

std::string LayerCase::check(qconv_path path, const float *y) {
    const bool packed = path == QCONV_PATH_B1B1 || path == QCONV_PATH_INT8;
    auto found = expected_.find(packed);
    if (found == expected_.end()) {
        found = expected_
                    .emplace(packed, reference::expect(config_, path, x_.data(), shape_.batch, shape_.width,
                                                       weight_.data(), bias(), positions_))
                    .first;
    }
    for (int64_t i = 0; i < y_size(); ++i) {
        if (std::isnan(y[i])) {
            return "y[" + std::to_string(i / width_out_ / shape_.out) + ", " +
                   std::to_string(i / width_out_ % shape_.out) + ", " + std::to_string(i % width_out_) +
                   "] is NaN or was never written";
        }
    }
    const reference::Expected &expected = found->second;
    const auto columns = static_cast<int64_t>(positions_.empty() ? static_cast<size_t>(width_out_) : positions_.size());
    std::vector<float> at_columns;
    at_columns.reserve(expected.y.size());
    for (int64_t row = 0; row < shape_.batch * shape_.out; ++row) {
        for (int64_t j = 0; j < columns; ++j) {
            at_columns.push_back(y[row * width_out_ + (positions_.empty() ? j : positions_[static_cast<size_t>(j)])]);
        }
    }
    const int64_t bad = reference::first_mismatch(expected, at_columns.data());
    if (bad < 0) return "";
    const auto at = static_cast<size_t>(bad);
    const int64_t column = positions_.empty() ? bad % columns : positions_[static_cast<size_t>(bad % columns)];
    char text[256];
    std::snprintf(text, sizeof text, "y[%lld, %lld, %lld] is %.9g, expected %.9g, off by %.3g where %.3g is allowed",
                  static_cast<long long>(bad / columns / shape_.out),
                  static_cast<long long>(bad / columns % shape_.out), static_cast<long long>(column),
                  double{at_columns[at]}, expected.y[at], std::abs(double{at_columns[at]} - expected.y[at]),
                  expected.tolerance[at]);
    return text;
}

std::string LayerCase::describe() const {
    return test::describe(shape_) + ", " + pair_name_ + ", pad_value " + std::to_string(config_.pad_value) +
           (data_ == Data::Extreme   ? ", values at their limits"
            : data_ == Data::WithNaN ? ", with NaN"
                                     : "");
}

namespace {
constexpr size_t kArenaBytes = size_t{16} << 20; // four times the largest x or y of the shape table
} // namespace

GuardedRun::GuardedRun() : x_arena_(kArenaBytes), y_arena_(kArenaBytes), workspace_arena_(4 * kArenaBytes) {}

std::string GuardedRun::forward(const qconv_layer *layer, const LayerCase &c, GuardedArena::Edge edge,
                                bool own_workspace) {
    const Shape &s = c.shape();
    int64_t width_out = -1;
    if (qconv_layer_width_out(layer, s.width, &width_out) != QCONV_OK || width_out != c.width_out()) {
        return "width_out is " + std::to_string(width_out) + ", expected " + std::to_string(c.width_out());
    }
    void *workspace = nullptr;
    size_t workspace_bytes = 0;
    if (!own_workspace) {
        if (qconv_layer_workspace_size(layer, s.batch, s.width, &workspace_bytes) != QCONV_OK) {
            return std::string("workspace_size: ") + qconv_last_error();
        }
        workspace = workspace_arena_.place(workspace_bytes, 64, edge);
    }
    const float *x = x_arena_.place(c.x(), edge);
    const std::vector<float> unwritten(static_cast<size_t>(c.y_size()), std::numeric_limits<float>::quiet_NaN());
    y_ = y_arena_.place(unwritten, edge);
    const uint64_t fallbacks = workspace_fallbacks();
    const qconv_status status = qconv_layer_forward(layer, x, s.batch, s.width, y_, workspace, workspace_bytes);
    if (status != QCONV_OK) return std::string(qconv_status_name(status)) + ": " + qconv_last_error();
    if (workspace_fallbacks() != fallbacks) return "a workspace of the size asked for had no room for scratch";
    if (const auto at = x_arena_.damage(); at != 0) return "wrote at byte " + std::to_string(at) + " of x";
    if (const auto at = y_arena_.damage(); at != 0) return "wrote at byte " + std::to_string(at) + " of y";
    if (const auto at = own_workspace ? 0 : workspace_arena_.damage(); at != 0) {
        return "wrote at byte " + std::to_string(at) + " of a workspace of " + std::to_string(workspace_bytes);
    }
    return "";
}

} // namespace qconv::test
