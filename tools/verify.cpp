#include "tools/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <set>

#include "runtime/select.h"
#include "tests/support/reference.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/kernel_loading.h"
#include "tools/workloads.h"

namespace qconv::tools {
namespace {

/// Random data that reaches what quantizers care about: both signs, zeros of both signs, ties, and values beyond 1.
std::vector<float> random_values(std::size_t count, std::mt19937_64 &random) {
    static constexpr float kSpecial[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.5f, -0.5f, 2.0f, 1e-30f, -1e-30f};
    std::normal_distribution<float> normal(0, 1);
    std::uniform_int_distribution<int> dice(0, 99);
    std::vector<float> values(count);
    for (float &v : values) {
        const int throw_of_dice = dice(random);
        v = throw_of_dice < static_cast<int>(std::size(kSpecial)) ? kSpecial[throw_of_dice] : normal(random);
    }
    return values;
}

/// Output columns to check: all of them if the oracle can afford it, else every column that reaches over an end (the
/// outermost and innermost of them if even those are too many) and random ones.
std::vector<int64_t> columns_to_check(const qconv_layer_config &c, int64_t batch, int64_t width, int64_t width_out,
                                      double budget, std::mt19937_64 &random) {
    const double column_macs = static_cast<double>(batch) * static_cast<double>(c.out_channels) *
                               static_cast<double>(c.in_channels / c.groups) * static_cast<double>(c.kernel_size);
    const auto affordable = static_cast<int64_t>(std::clamp(budget / column_macs, 8.0, 1e9));
    std::vector<int64_t> all(static_cast<std::size_t>(width_out));
    for (int64_t i = 0; i < width_out; i++)
        all[static_cast<std::size_t>(i)] = i;
    if (width_out <= affordable) return all;

    // The first column that does not reach over the left end, and the first that reaches over the right one.
    const int64_t left = std::min((c.pad_left + c.stride - 1) / c.stride, width_out);
    const int64_t reach = width + c.pad_left - c.dilation * (c.kernel_size - 1) - 1;
    const int64_t right = std::clamp<int64_t>(reach >= 0 ? reach / c.stride + 1 : 0, 0, width_out);
    std::set<int64_t> chosen;
    for (const int64_t column : {int64_t{0}, left - 1, left, right - 1, right, width_out - 1}) {
        if (column >= 0 && column < width_out) chosen.insert(column);
    }
    if (left + width_out - right <= affordable) {
        chosen.insert(all.begin(), all.begin() + left);
        chosen.insert(all.begin() + right, all.end());
    }
    std::uniform_int_distribution<int64_t> any(0, width_out - 1);
    while (static_cast<int64_t>(chosen.size()) < affordable)
        chosen.insert(any(random));
    return {chosen.begin(), chosen.end()};
}

class Check {
public:
    Check(const LayerSpec &layer, const VerifySettings &settings)
        : layer_(layer), random_(settings.seed * 0x9e3779b97f4a7c15 + std::hash<std::string>{}(layer.name)) {
        const qconv_layer_config &c = layer.config;
        const int64_t least = std::max<int64_t>(1, c.dilation * (c.kernel_size - 1) + 1 - c.pad_left - c.pad_right);
        batch_ = settings.batch ? settings.batch : layer.batch ? layer.batch : 2;
        width_ = settings.width ? settings.width : layer.width ? layer.width : least + 97 * c.stride;
        if (width_ < least) {
            throw InputError(
                fmt::format("--width {}: layer '{}' needs at least {} for one window", width_, layer.name, least));
        }
        const auto elements = [](int64_t a, int64_t b, int64_t d) { return static_cast<std::size_t>(a * b * d); };
        weight_ = random_values(elements(c.out_channels, c.in_channels / c.groups, c.kernel_size), random_);
        if (layer.bias) bias_ = random_values(static_cast<std::size_t>(c.out_channels), random_);
        x_ = random_values(elements(batch_, c.in_channels, width_), random_);
    }

    /// With the kernel of that name, or the best one for NULL.
    VerifyResult run(const char *kernel, const VerifySettings &settings) {
        VerifyResult result{};
        result.layer = layer_.name;
        result.description = describe_layer(layer_);
        result.batch = batch_, result.width = width_;
        qconv_layer_config config = layer_.config;
        config.kernel = kernel;
        qconv_layer *created = nullptr;
        if (qconv_layer_create(&config, weight_.data(), bias(), &created) != QCONV_OK) {
            result.problem = qconv_last_error();
            return result;
        }
        const std::unique_ptr<qconv_layer, void (*)(qconv_layer *)> handle(created, qconv_layer_destroy);
        const qconv_kernel &used = *qconv_layer_kernel(created, QCONV_FORWARD);
        result.kernel = used.name, result.path = qconv_path_name(used.path), result.target = used.target;
        if (settings.specialised != (used.in_channels > 0)) {
            result.problem =
                settings.specialised ? "the registry preferred a generic kernel" : "a specialised kernel ran";
            return result;
        }
        if (qconv_layer_width_out(created, width_, &result.width_out) != QCONV_OK) {
            result.problem = qconv_last_error();
            return result;
        }
        // NaN everywhere first: an output that is never written then shows.
        std::vector<float> y(static_cast<std::size_t>(batch_ * config.out_channels * result.width_out), NAN);
        if (qconv_layer_forward(created, x_.data(), batch_, width_, y.data(), nullptr, 0) != QCONV_OK) {
            result.problem = qconv_last_error();
            return result;
        }
        compare(y, used.path, settings, result);
        return result;
    }

private:
    const float *bias() const { return bias_.empty() ? nullptr : bias_.data(); }

    void compare(const std::vector<float> &y, qconv_path path, const VerifySettings &settings, VerifyResult &result) {
        const int64_t width_out = result.width_out;
        if (expected_path_ != path || columns_.empty()) {
            columns_ = columns_to_check(layer_.config, batch_, width_, width_out, settings.oracle_macs, random_);
            expected_ =
                reference::expect(layer_.config, path, x_.data(), batch_, width_, weight_.data(), bias(), columns_);
            expected_path_ = path;
        }
        result.columns = static_cast<int64_t>(columns_.size());
        double worst = -1;
        for (std::size_t i = 0; i < expected_.y.size(); i++) {
            const auto row = static_cast<int64_t>(i / columns_.size()); // batch entry and output channel
            const int64_t column = columns_[i % columns_.size()];
            const float got = y[static_cast<std::size_t>(row * width_out + column)];
            const double error = std::abs(expected_.y[i] - static_cast<double>(got));
            const double over = error - expected_.tolerance[i];
            if (!std::isnan(error)) result.max_error = std::max(result.max_error, error);
            result.max_tolerance = std::max(result.max_tolerance, expected_.tolerance[i]);
            if (over <= 0 || over <= worst) continue;
            worst = std::isnan(over) ? INFINITY : over;
            result.problem =
                fmt::format("y[{}, {}, {}] is {:g}; it must be {:g} within {:.3g}", row / layer_.config.out_channels,
                            row % layer_.config.out_channels, column, got, expected_.y[i], expected_.tolerance[i]);
        }
    }

    const LayerSpec &layer_;
    std::mt19937_64 random_;
    int64_t batch_ = 0, width_ = 0;
    std::vector<float> x_, weight_, bias_;
    std::vector<int64_t> columns_;
    reference::Expected expected_;
    qconv_path expected_path_{};
};

/// Names of the registered kernels that can serve a layer; {NULL} stands for the registry's own choice.
std::vector<const char *> kernels_to_check(const LayerSpec &layer, bool every) {
    if (!every) return {nullptr};
    std::vector<const char *> names;
    for (std::size_t i = 0; const qconv_kernel *kernel = qconv_kernel_at(i); i++) {
        if (std::isfinite(estimate_cost(*kernel, layer.config))) names.push_back(kernel->name);
    }
    return names;
}

} // namespace

void verify_layers(const std::vector<LayerSpec> &layers, const TargetInfo &target, const VerifySettings &settings,
                   const std::function<void(const LayerSpec &)> &starting,
                   const std::function<void(const VerifyResult &)> &finished) {
    if (settings.specialised) {
        register_specialised_kernels(layers, {target}, settings.jobs);
    } else {
        register_generic_kernels({target});
    }
    for (const LayerSpec &layer : layers) {
        check_interrupt();
        starting(layer);
        Check check(layer, settings);
        for (const char *kernel : kernels_to_check(layer, settings.every_kernel)) {
            VerifyResult result = check.run(kernel, settings);
            if (result.target.empty()) result.target = target.name;
            finished(result);
        }
    }
}

std::vector<LayerSpec> read_layers_or_workloads(const std::string &path, const LayerSpec &kind_of_rows) {
    if (!path.ends_with(".csv")) return read_layer_file(path);
    std::vector<Workload> rows;
    try {
        rows = read_workloads(path);
    } catch (const std::runtime_error &error) {
        throw InputError(error.what());
    }
    std::vector<LayerSpec> layers;
    for (const Workload &row : rows) {
        LayerSpec layer = kind_of_rows;
        layer.name = row.name;
        set_shape(row, layer.config);
        layer.width = row.width;
        layer.batch = row.batch;
        layers.push_back(layer);
    }
    return layers;
}

} // namespace qconv::tools
