#include "tools/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>

#include "runtime/select.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/kernel_loading.h"
#include "tools/oracle.h"
#include "tools/random_data.h"
#include "tools/workloads.h"

namespace qconv::tools {
namespace {

/// Equal bits: NaN is equal to itself, and 0 differs from -0.
bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// The kernels of one layer, one direction at a time, on the same data.
class Check {
public:
    Check(const LayerSpec &layer, const VerifySettings &settings) : layer_(layer), settings_(settings) {
        const qconv_layer_config &c = layer.config;
        const int64_t least = std::max<int64_t>(1, c.dilation * (c.kernel_size - 1) + 1 - c.pad_left - c.pad_right);
        const int64_t batch = settings.batch ? settings.batch : layer.batch ? layer.batch : 2;
        const int64_t width = settings.width ? settings.width : layer.width ? layer.width : least + 97 * c.stride;
        if (width < least) {
            throw InputError(
                fmt::format("--width {}: layer '{}' needs at least {} for one window", width, layer.name, least));
        }
        const uint64_t seed = settings.seed * 0x9e3779b97f4a7c15 + std::hash<std::string>{}(layer.name);
        data_ = random_data(c, batch, width, layer.bias, seed);
        oracle_.emplace(c, data_, settings.oracle_macs, seed);
    }

    /// With the kernel of that name, or the best one for NULL.
    VerifyResult run(qconv_op op, const char *kernel) {
        VerifyResult result{};
        result.layer = layer_.name;
        result.description = describe_layer(layer_);
        result.direction = op_option(op);
        result.batch = data_.batch, result.width = data_.width;
        qconv_layer_config config = layer_.config;
        // A state comes from the forward pass.
        config.directions = uint32_t{QCONV_FORWARD} | direction_of(op);
        forced_kernel(config, op) = kernel;
        try {
            LayerRun layer(config, data_, result.direction);
            compare(layer, op, result);
        } catch (const Interrupted &) {
            throw;
        } catch (const Error &error) {
            result.problem = error.what();
        }
        return result;
    }

private:
    void compare(LayerRun &layer, qconv_op op, VerifyResult &result) {
        const qconv_kernel &used = layer.kernel(op);
        result.kernel = used.name, result.path = qconv_path_name(used.path), result.target = used.target;
        result.width_out = layer.width_out();
        if (settings_.specialised != (used.in_channels > 0)) {
            result.problem =
                settings_.specialised ? "the registry preferred a generic kernel" : "a specialised kernel ran";
            return;
        }
        layer.spoil();
        if (op == QCONV_OP_FORWARD) {
            layer.forward();
        } else {
            result.problem = train(layer, op);
            if (!result.problem.empty()) return;
        }
        const Verdict verdict = oracle_->check(layer, op);
        result.problem = layer.workspace_problem();
        if (result.problem.empty()) result.problem = verdict.problem;
        result.checked = verdict.checked, result.total = verdict.total;
        result.max_error = verdict.max_error, result.max_tolerance = verdict.max_tolerance;
    }

    /// Forward and backward; what is wrong with them besides the gradients' values, or "".
    std::string train(LayerRun &layer, qconv_op op) const {
        layer.forward();
        const std::vector<float> y = layer.y();
        layer.spoil();
        layer.forward_training();
        if (!same_bits(y, layer.y())) return "forward_training and forward differ";
        if (std::string wrong = oracle_->check_state(layer); !wrong.empty()) return wrong;

        const bool bias = layer.config().kind == QCONV_LAYER_CONV1D;
        const auto backward = [&] {
            if (op == QCONV_OP_GRAD_INPUT) {
                layer.backward({.input = true, .weight = false, .bias = false});
            } else {
                layer.backward({.input = false, .weight = true, .bias = bias});
            }
        };
        const std::vector<float> &gradient = op == QCONV_OP_GRAD_INPUT ? layer.grad_input() : layer.grad_weight();
        const int threads = qconv_get_num_threads();
        const int others = threads == 1 ? 3 : 1;
        tools::check(qconv_set_num_threads(others), "threads");
        layer.resize_workspace();
        backward();
        if (std::string wrong = layer.workspace_problem(); !wrong.empty()) return wrong;
        const std::vector<float> elsewhere = gradient;
        tools::check(qconv_set_num_threads(threads), "threads");
        layer.resize_workspace();
        backward();
        if (same_bits(elsewhere, gradient)) return "";
        return fmt::format("{} and {} threads give different gradients", others, threads);
    }

    const LayerSpec &layer_;
    const VerifySettings &settings_;
    LayerData data_;
    std::optional<Oracle> oracle_;
};

/// Names of the registered kernels that can serve a layer; {NULL} stands for the registry's own choice.
std::vector<const char *> kernels_to_check(const LayerSpec &layer, qconv_op op, bool every) {
    if (!every) return {nullptr};
    std::vector<const char *> names;
    for (std::size_t i = 0; const qconv_kernel *kernel = qconv_kernel_at(i); i++) {
        if (kernel->op == op && std::isfinite(estimate_cost(*kernel, layer.config))) names.push_back(kernel->name);
    }
    return names;
}

} // namespace

void verify_layers(const std::vector<LayerSpec> &layers, const TargetInfo &target, const VerifySettings &settings,
                   const std::function<void(const LayerSpec &)> &starting,
                   const std::function<void(const VerifyResult &)> &finished) {
    std::vector<LayerSpec> directed = layers;
    for (LayerSpec &layer : directed)
        layer.config.directions = settings.directions | QCONV_FORWARD;
    if (settings.specialised) {
        register_specialised_kernels(directed, {target}, settings.jobs);
    } else {
        register_generic_kernels({target});
    }
    for (const LayerSpec &layer : directed) {
        check_interrupt();
        starting(layer);
        Check check(layer, settings);
        for (const qconv_op op : ops_of(settings.directions)) {
            for (const char *kernel : kernels_to_check(layer, op, settings.every_kernel)) {
                check_interrupt();
                VerifyResult result = check.run(op, kernel);
                if (result.target.empty()) result.target = target.name;
                finished(result);
            }
        }
    }
}

} // namespace qconv::tools
