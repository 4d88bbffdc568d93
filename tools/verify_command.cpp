// qconvc verify
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/isolated.h"
#include "tools/row_layers.h"
#include "tools/text.h"
#include "tools/verify.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char *kAllDirections = "all";

struct Options {
    std::string layers, kernels = "generic", direction = "forward";
    RowOptions rows;
    std::vector<std::string> targets;
    VerifySettings settings;
    bool json = false, quiet = false;
};

Json to_json(const VerifyResult &r) {
    return {{"layer", r.layer},          {"description", r.description}, {"target", r.target},
            {"direction", r.direction},  {"kernel", r.kernel},           {"path", r.path},
            {"pass", r.problem.empty()}, {"problem", r.problem},         {"batch", r.batch},
            {"width", r.width},          {"width_out", r.width_out},     {"checked", r.checked},
            {"values", r.total},         {"max_error", r.max_error},     {"tolerance", r.max_tolerance}};
}

/// What a child reports, one JSON object a line: {"starting": layer}, a result, or {"error": text, "code": exit code}.
class ReportWriter {
public:
    explicit ReportWriter(int descriptor) : file_(fdopen(descriptor, "w")) {}
    void line(const Json &json) {
        // A number that JSON has no word for becomes null; text may hold any bytes.
        const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
        std::fputs(text.c_str(), file_);
        std::fflush(file_);
    }

private:
    std::FILE *file_;
};

/// One target, in a process of its own: it registers this target's kernels only, and a kernel that crashes is reported
/// as a failure of its layer.
class TargetCheck {
public:
    TargetCheck(const std::vector<LayerSpec> &layers, const TargetInfo &target, const Options &options)
        : layers_(layers), target_(target), options_(options) {}

    /// Calls `on_result` for each result as it comes.
    template <class OnResult>
    void run(OnResult on_result) {
        int ends[2];
        if (pipe(ends) != 0) throw EnvironmentError(fmt::format("cannot make a pipe: {}", std::strerror(errno)));
        std::fflush(nullptr);
        const pid_t parent = getpid(), child = fork();
        if (child < 0) throw EnvironmentError(fmt::format("cannot start a process: {}", std::strerror(errno)));
        if (child == 0) {
            if (!end_with_parent(parent)) _exit(kExitEnvironment);
            close(ends[0]);
            work(ends[1]);
        }
        close(ends[1]);
        std::string layer, error;
        int code = kExitOk;
        const std::unique_ptr<std::FILE, int (*)(std::FILE *)> report(fdopen(ends[0], "r"), std::fclose);
        char *line = nullptr;
        std::size_t capacity = 0;
        while (getline(&line, &capacity, report.get()) > 0) {
            const Json json = Json::parse(line, nullptr, false);
            if (json.contains("starting")) {
                layer = json["starting"];
            } else if (json.contains("error")) {
                error = json["error"];
                code = json["code"];
            } else if (!json.is_discarded()) {
                on_result(json);
            }
        }
        std::free(line);
        int status = 0;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
        check_interrupt();
        if (code != kExitOk) throw Error(static_cast<ExitCode>(code), error);
        if (!WIFSIGNALED(status)) return;
        VerifyResult crashed;
        crashed.layer = layer;
        crashed.direction = options_.direction;
        crashed.target = target_.name;
        crashed.problem =
            fmt::format("the process died: {}; later layers were not checked", strsignal(WTERMSIG(status)));
        on_result(to_json(crashed));
    }

private:
    [[noreturn]] void work(int descriptor) {
        ReportWriter report(descriptor);
        try {
            verify_layers(
                layers_, target_, options_.settings, [&](const LayerSpec &l) { report.line({{"starting", l.name}}); },
                [&](const VerifyResult &result) { report.line(to_json(result)); });
        } catch (const Error &error) {
            report.line({{"error", error.what()}, {"code", static_cast<int>(error.code())}});
        } catch (const std::exception &error) {
            report.line({{"error", error.what()}, {"code", static_cast<int>(kExitEnvironment)}});
        }
        // The parent owns what static destructors would tear down.
        _exit(0);
    }

    const std::vector<LayerSpec> &layers_;
    const TargetInfo &target_;
    const Options &options_;
};

void print_result(const Json &r) {
    const bool pass = r["pass"];
    fmt::print("{} {:<12} {:<12} {:<7} {:<34} {}", pass ? "ok  " : "FAIL", r["target"].get<std::string>(),
               r["direction"].get<std::string>(), r["path"].get<std::string>(), r["kernel"].get<std::string>(),
               r["layer"].get<std::string>());
    if (pass) {
        fmt::print(": max error {:.3g} (tolerance {:.3g}), {} of {} values", r["max_error"].get<double>(),
                   r["tolerance"].get<double>(), r["checked"].get<int64_t>(), r["values"].get<int64_t>());
    } else {
        fmt::print(": {}", r["problem"].get<std::string>());
    }
    fmt::print("\n");
    std::fflush(stdout);
}

void verify(Options &options) {
    options.settings.specialised = options.kernels == "specialised";
    options.settings.directions =
        parse_directions({options.direction == kAllDirections ? "training" : options.direction});
    const std::vector<LayerSpec> layers = read_layers_or_workloads(options.layers, options.rows);
    std::vector<TargetInfo> targets = supported_targets();
    if (!options.targets.empty()) targets = find_targets(options.targets);
    for (const TargetInfo &target : targets)
        require_cpu_support(target);

    Json results = Json::array();
    std::size_t failed = 0, sampled = 0;
    for (const TargetInfo &target : targets) {
        TargetCheck(layers, target, options).run([&](const Json &result) {
            failed += !result["pass"].get<bool>();
            sampled += result["checked"] < result["values"];
            if (options.json) {
                results.push_back(result);
            } else if (!options.quiet || !result["pass"].get<bool>()) {
                print_result(result);
            }
            if (!options.json) results.push_back(nullptr);
        });
    }
    const std::size_t passed = results.size() - failed;
    if (options.json) {
        const Json json = {{"layers", options.layers},   {"direction", options.direction},
                           {"kernels", options.kernels}, {"seed", options.settings.seed},
                           {"passed", passed},           {"failed", failed},
                           {"sampled", sampled},         {"results", results}};
        fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    } else {
        fmt::print("{} passed, {} failed ({}, {}, direction {}, {} kernels, seed {})\n", passed, failed,
                   counted(layers.size(), "layer"), counted(targets.size(), "target"), options.direction,
                   options.kernels, options.settings.seed);
        if (sampled > 0) {
            fmt::print("{} checks compared a seeded sample of values, edges included (--oracle-macs)\n", sampled);
        }
    }
    if (failed > 0) throw Error(kExitCheckFailed, fmt::format("{} of {} checks failed", failed, passed + failed));
}

} // namespace

void add_verify_command(CLI::App &app) {
    auto options = std::make_shared<Options>();
    options->settings.jobs = usable_cpus();
    CLI::App *command = app.add_subcommand("verify", "Check kernels against plain loops on seeded random data");
    std::vector<std::string> directions = {kAllDirections};
    for (const qconv_op op : direction_ops())
        directions.push_back(op_option(op));
    command->add_option("layers", options->layers, "Layer file (.json) or workload table (.csv)")->required();
    command->add_option("-d,--direction", options->direction, "forward, grad-input, grad-weight or all")
        ->check(CLI::IsMember(directions))
        ->capture_default_str();
    command->add_option("-t,--target", options->targets, "Targets, by commas; default: all this CPU supports")
        ->delimiter(',')
        ->allow_extra_args(false);
    command->add_option("--kernels", options->kernels, "generic, or specialised: compile the layers first")
        ->check(CLI::IsMember({"generic", "specialised"}))
        ->capture_default_str();
    command->add_flag("--every-kernel", options->settings.every_kernel,
                      "Check each kernel that can serve a layer, not the chosen one only");
    options->rows.add_to(*command);
    command->add_option("--seed", options->settings.seed, "Seed of the random data")->capture_default_str();
    command->add_option("--batch", options->settings.batch, "Batch; default: the file's, else 2")
        ->check(CLI::Range(1, 1 << 20));
    command->add_option("--width", options->settings.width, "Input width; default: the file's, else a small one")
        ->check(CLI::Range(1, 1 << 30));
    command->add_option("--oracle-macs", options->settings.oracle_macs, "Work of the oracle a layer before it samples")
        ->check(CLI::Range(1.0, 1e15))
        ->capture_default_str();
    command->add_option("-j,--jobs", options->settings.jobs, "Compiler processes at once (specialised)")
        ->check(CLI::Range(1, 256));
    command->add_flag("-q,--quiet", options->quiet, "Print failures and the total only");
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        "Exact where both sides are integers; else within the tolerance derived in tests/support/reference.h.\n"
        "Gradients must also be the same bits at another number of threads, and a saved state right bit by bit.\n"
        "Exit code 1 if any value is outside.\n\n"
        "Examples:\n"
        "  qconvc verify net.json\n"
        "  qconvc verify net.json --kernels specialised --target host\n"
        "  qconvc verify bench/workloads.csv --input-quantization 'inputdorefa(2)' --quiet\n"
        "  qconvc verify bench/workloads.csv --layer QConv1d_NoAct --every-kernel -t avx2\n"
        "  qconvc verify bench/workloads.csv --direction all --input-quantization swishsign --threshold 1.5");
    command->callback([options] { verify(*options); });
}

} // namespace qconv::tools
