// qconvc list
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "qconv/qconv.h"
#include "runtime/cpu_features.h"
#include "runtime/device.h"
#include "tools/commands.h"
#include "tools/directions.h"
#include "tools/embedded.h"
#include "tools/emit.h"
#include "tools/errors.h"
#include "tools/targets.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

using Json = nlohmann::ordered_json;

Json targets_json() {
    Json list = Json::array();
    for (const std::vector<TargetInfo> *targets : {&known_targets(), &known_device_targets()}) {
        for (const TargetInfo &target : *targets) {
            std::string missing = missing_cpu_feature(target);
            if (missing.empty()) missing = driver_missing(qconv::find_target(target.name)->device);
            list.push_back({{"name", target.name},
                            {"halide", target.halide},
                            {"supported", missing.empty()},
                            {"missing", missing}});
        }
    }
    return list;
}

/// Those of one op, or all of them for "".
Json kernels_json(const std::string &op) {
    Json list = Json::array();
    for (const KernelRow &row : parse_kernel_list(embedded_kernels_json)) {
        if (!op.empty() && op_option(row.layout.op) != op) continue;
        list.push_back({{"name", row.name},
                        {"op", qconv_op_name(row.layout.op)},
                        {"path", qconv_path_name(row.layout.path)},
                        {"generator", row.generator},
                        {"params", row.params},
                        {"targets", row.targets}});
    }
    return list;
}

Json quantizers_json() {
    struct Formulas {
        const char *forward, *backward, *keys;
    };
    // In the order of qconv_quantizer_kind; m = 2^bits - 1.
    static const Formulas formulas[QCONV_QUANTIZER_KINDS] = {
        {"v", "1", ""},
        {"+1 if v >= 0 else -1", "1", ""},
        {"+1 if v >= 0 else -1", "2 - 2|v| if |v| <= 1 else 0", ""},
        {"+1 if v >= 0 else -1", "beta (2 - beta v tanh(beta v / 2)) / (1 + cosh(beta v))", "beta"},
        {"+1 if v > 0 else -1", "1 if |v| <= 1 else 0", ""},
        {"round(clamp(v, 0, 1) m) / m", "1", "bits"},
        {"2 round((tanh(v) / (2 max|tanh(V)|) + 0.5) m) / m - 1", "1", "bits"},
        {"training: hardtanh(v / max(alpha^(-beta scale), 1e-7)), else sign", "1", "alpha, beta, scale, training"},
    };
    Json list = Json::array();
    for (int kind = 0; kind < QCONV_QUANTIZER_KINDS; kind++) {
        list.push_back({{"name", qconv_quantizer_name(static_cast<qconv_quantizer_kind>(kind))},
                        {"forward", formulas[kind].forward},
                        {"gradient", formulas[kind].backward},
                        {"keys", formulas[kind].keys}});
    }
    return list;
}

void print_targets() {
    for (const Json &target : targets_json()) {
        const std::string missing = target["missing"];
        const bool feature = missing.find(' ') == std::string::npos; // else a sentence on a missing driver
        fmt::print("{:<12} {:<24} {}\n", target["name"].get<std::string>(),
                   target["supported"] ? "runs here"
                   : feature           ? "this CPU lacks " + missing
                                       : "no GPU to run it",
                   target["halide"].get<std::string>());
        if (!feature) fmt::print("{:<12} {}\n", "", missing);
    }
}

void print_kernels(const std::string &op) {
    for (const Json &kernel : kernels_json(op)) {
        fmt::print("{:<36} {:<12} {:<7} {}\n", kernel["name"].get<std::string>(), kernel["op"].get<std::string>(),
                   kernel["path"].get<std::string>(), join(kernel["targets"].get<std::vector<std::string>>()));
    }
}

void print_quantizers() {
    for (const Json &quantizer : quantizers_json()) {
        fmt::print("{:<17} {}\n{:<17} gradient factor: {}\n", quantizer["name"].get<std::string>(),
                   quantizer["forward"].get<std::string>(), "", quantizer["gradient"].get<std::string>());
        if (const std::string keys = quantizer["keys"]; !keys.empty()) fmt::print("{:<17} keys: {}\n", "", keys);
    }
}

} // namespace

void add_list_command(CLI::App &app) {
    struct Options {
        std::string what, op;
        bool json = false;
    };
    auto options = std::make_shared<Options>();
    CLI::App *command = app.add_subcommand("list", "Show targets, kernels and quantizers");
    command->add_option("what", options->what, "targets, kernels or quantizers; default: all three")
        ->check(CLI::IsMember({"targets", "kernels", "quantizers"}));
    command->add_option("--op", options->op, "Kernels of one op only: " + join(op_options()))
        ->check(CLI::IsMember(op_options()));
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        "Examples:\n  qconvc list\n  qconvc list targets\n  qconvc list kernels --op grad-input\n  qconvc list kernels "
        "--json");
    command->callback([options] {
        if (!options->op.empty()) {
            if (!options->what.empty() && options->what != "kernels")
                throw InputError(fmt::format("--op selects kernels; 'list {}' shows none", options->what));
            options->what = "kernels";
        }
        const auto wanted = [&](const char *what) { return options->what.empty() || options->what == what; };
        if (options->json) {
            Json json;
            if (wanted("targets")) json["targets"] = targets_json();
            if (wanted("kernels")) json["kernels"] = kernels_json(options->op);
            if (wanted("quantizers")) json["quantizers"] = quantizers_json();
            fmt::print("{}\n", json.dump(2));
            return;
        }
        const auto section = [&](const char *what, const auto &print) {
            if (!wanted(what)) return;
            if (options->what.empty()) fmt::print("{}\n\n", what);
            print();
            if (options->what.empty()) fmt::print("\n");
        };
        section("targets", print_targets);
        section("kernels", [&] { print_kernels(options->op); });
        section("quantizers", print_quantizers);
    });
}

} // namespace qconv::tools
