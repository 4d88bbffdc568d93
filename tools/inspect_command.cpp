// qconvc inspect
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/compiler.h"
#include "tools/directions.h"
#include "tools/embedded.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/ideal_loops.h"
#include "tools/inspect_module.h"
#include "tools/inspect_report.h"
#include "tools/isolated.h"
#include "tools/kernel_table.h"
#include "tools/layer_file.h"
#include "tools/ptxas.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

struct Options {
    std::string file, cpu, kernel, stmt;
    std::vector<std::string> targets, directions = {"forward"};
    int jobs = usable_cpus();
    bool json = false, brief = false;
};

/// Rows of the kernel list by the function that they were compiled to.
class Rows {
public:
    Rows() : list_(parse_kernel_list(embedded_kernels_json)) {
        for (const KernelRow &row : list_)
            for (const std::string &target : row.targets)
                rows_[generic_function_name(row.name, target)] = &row;
    }

    const KernelRow *find(const std::string &function) const {
        const auto found = rows_.find(function);
        return found == rows_.end() ? nullptr : found->second;
    }

    void add(const std::string &function, const std::string &name, const std::string &target) {
        for (const KernelRow &row : list_) {
            const bool serves = std::find(row.targets.begin(), row.targets.end(), target) != row.targets.end();
            if (row.name == name && serves) rows_[function] = &row;
        }
    }

    /// The kernels that a manifest.json beside the file names; one that is not ours is no help, and no error.
    void add_manifest(const fs::path &path) {
        std::ifstream stream(path);
        const Json manifest = Json::parse(stream, nullptr, /*allow_exceptions=*/false);
        if (!manifest.is_object() || !manifest.contains("kernels") || !manifest["kernels"].is_array()) return;
        for (const Json &kernel : manifest["kernels"]) {
            if (!kernel.is_object()) continue;
            const auto text = [&](const char *key) {
                return kernel.contains(key) && kernel[key].is_string() ? kernel[key].get<std::string>() : "";
            };
            add(text("function"), text("kernel"), text("target"));
        }
    }

private:
    std::vector<KernelRow> list_;
    std::map<std::string, const KernelRow *> rows_;
};

/// The one that a Halide target string, with features in any order, was made from.
const TargetInfo *find_by_features(const std::string &halide) {
    const auto features = [](const std::string &text) {
        std::vector<std::string> words;
        for (std::size_t at = 0; at <= text.size();) {
            const std::size_t end = std::min(text.find('-', at), text.size());
            const std::string word = text.substr(at, end - at);
            // Added to every kernel.
            if (word != "user_context" && !word.starts_with("no_")) words.push_back(word);
            at = end + 1;
        }
        std::sort(words.begin(), words.end());
        return words;
    };
    for (const std::vector<TargetInfo> *list : {&known_targets(), &known_device_targets()})
        for (const TargetInfo &target : *list)
            if (features(target.halide) == features(halide)) return &target;
    return nullptr;
}

inspect::KernelFacts facts(const KernelRow *row) {
    if (!row) return {};
    const qconv_kernel &layout = row->layout;
    return {layout.path, std::max(1, layout.input_planes * layout.weight_planes), layout.table_channels};
}

std::vector<Inspected> inspect_library(const fs::path &file, const Rows &rows, const Options &options) {
    const auto target_of = [](const inspect::ObjectReport &object) { return find_by_features(object.halide_target); };
    const auto cpu_of = [&](const inspect::ObjectReport &object) {
        if (!options.cpu.empty()) return options.cpu;
        const TargetInfo *target = target_of(object);
        return target ? typical_cpu(*target) : std::string();
    };
    inspect::Questions questions;
    questions.facts = [&](const inspect::ObjectReport &object) {
        check_interrupt();
        return facts(rows.find(object.kernel));
    };
    questions.cpu = cpu_of;
    questions.peak = [&](const inspect::ObjectReport &object, qconv_path path) {
        const TargetInfo *target = target_of(object);
        return target ? ideal_loop(*target, path) : inspect::PeakLoop();
    };
    inspect::InspectFunction *const inspect = load_inspect_module();
    std::vector<inspect::ObjectReport> objects;
    try {
        inspect(file, questions, objects);
    } catch (const Error &) {
        throw;
    } catch (const std::runtime_error &error) {
        const std::string text = error.what();
        throw InputError(text.starts_with("--cpu") ? text : fmt::format("{}: {}", file.string(), text));
    }
    std::vector<Inspected> all;
    for (inspect::ObjectReport &object : objects) {
        check_interrupt();
        if (object.kernel.find(options.kernel) == std::string::npos) continue;
        Inspected &one = all.emplace_back();
        one.object = std::move(object);
        one.row = rows.find(one.object.kernel);
        one.target = target_of(one.object);
        one.cpu = cpu_of(one.object);
        for (const std::string &text : one.object.device_code) {
            one.device.push_back(parse_ptx(text));
            for (PtxAssembled &assembled : assemble_ptx(text, one.device.back()))
                one.assembled.push_back(std::move(assembled));
        }
    }
    return all;
}

/// Compiles the one kernel that is left after --kernel once more, to its loop nest.
void write_loop_nest(const Compiled &compiled, const fs::path &scratch, const Options &options) {
    std::vector<const CompiledKernel *> wanted;
    std::vector<std::string> names;
    for (const CompiledKernel &kernel : compiled.kernels) {
        names.push_back(kernel.function);
        if (kernel.function.find(options.kernel) != std::string::npos) wanted.push_back(&kernel);
    }
    if (wanted.size() != 1) {
        throw InputError(fmt::format("--stmt writes one kernel's loop nest, and --kernel '{}' names {} of {}",
                                     options.kernel, wanted.size(), join(names)));
    }
    const fs::path html = scratch / "loop_nest.html";
    WorkerTask task{"the loop nest of " + wanted[0]->function,
                    emit_arguments(*wanted[0], scratch / "kernels.json", html), scratch / "loop_nest.log"};
    run_workers({task}, 1, [](std::size_t, double) {});
    write_atomically(options.stmt, read_text(html));
}

std::vector<Inspected> inspect_layers(const Options &options, Rows &rows) {
    std::vector<LayerSpec> layers = read_layer_file(options.file);
    for (LayerSpec &layer : layers)
        layer.config.directions = parse_directions(options.directions);
    std::vector<std::string> targets = options.targets;
    if (targets.empty()) targets = {"host"};
    const CompileOptions compile{identifier(fs::path(options.file).stem().string()), find_targets(targets),
                                 options.jobs};
    ScratchFolder scratch(temporary_folder());
    const Compiled compiled = compile_layers(layers, compile, scratch.path());
    if (!options.stmt.empty()) write_loop_nest(compiled, scratch.path(), options);
    for (const CompiledKernel &kernel : compiled.kernels)
        rows.add(kernel.function, kernel.row.name, kernel.target.name);
    std::vector<Inspected> all;
    for (const TargetInfo &target : compile.targets) {
        for (Inspected &one : inspect_library(scratch.path() / library_file(compile, target), rows, options))
            all.push_back(std::move(one));
    }
    return all;
}

void print(const std::vector<Inspected> &all, const Options &options) {
    if (all.empty()) throw InputError(fmt::format("{}: no kernel's name contains '{}'", options.file, options.kernel));
    if (options.json) {
        Json json = {{"file", options.file}, {"objects", Json::array()}};
        for (const Inspected &one : all)
            json["objects"].push_back(inspected_json(one));
        fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    } else if (options.brief) {
        print_inspected_table(all);
    } else {
        std::for_each(all.begin(), all.end(), print_inspected);
    }
}

void inspect(const Options &options) {
    const bool layers = fs::path(options.file).extension() == ".json";
    if (!layers && !options.stmt.empty())
        throw InputError("--stmt compiles a layer once more: give the layer file, not a library");
    if (!layers && !options.targets.empty())
        throw InputError("--target is what a layer file is compiled for; a library has its own");
    Rows rows;
    if (layers) {
        print(inspect_layers(options, rows), options);
        return;
    }
    // LLVM's readers trust what they read: a file from elsewhere may be made to crash them, or to have them grow.
    constexpr IsolationLimits limits{.cpu_seconds = 600, .memory_bytes = std::uint64_t{8} << 30};
    const auto read = [&] {
        rows.add_manifest(fs::path(options.file).parent_path() / "manifest.json");
        print(inspect_library(options.file, rows, options), options);
    };
    run_isolated(read, options.file, limits);
}

} // namespace

void add_inspect_command(CLI::App &app) {
    auto options = std::make_shared<Options>();
    CLI::App *command =
        app.add_subcommand("inspect", "Show what is in compiled kernels: sizes, code, estimated cycles");
    command->add_option("file", options->file, "Library (.a), object file (.o), or layer file (.json), compiled first")
        ->required();
    command->add_option("--cpu", options->cpu,
                        "CPU whose scheduling model runs the hot loop: znver4, haswell, neoverse-n1, ...; default: one "
                        "that is typical of the kernel's target");
    command->add_option("--kernel", options->kernel, "Only kernels whose function's name contains this");
    command->add_option("-t,--target", options->targets, "Targets of a layer file, by commas; default: host")
        ->delimiter(',')
        ->allow_extra_args(false);
    command->add_option("--directions", options->directions, "Directions of a layer file")
        ->delimiter(',')
        ->check(CLI::IsMember(direction_options()))
        ->capture_default_str();
    command->add_option("--stmt", options->stmt, "Write the lowered loop nest of a layer's kernel: a web page");
    command->add_option("-j,--jobs", options->jobs, "Compiler processes at once")->check(CLI::Range(1, 256));
    command->add_flag("--brief", options->brief, "One line a kernel");
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        "The hot loop is the innermost loop with the most multiply-accumulates. Cycles are llvm-mca's, every load a "
        "hit\n"
        "in the first cache; the limit is an ideal loop of the same arithmetic on the same CPU, without loads.\n\n"
        "Examples:\n"
        "  qconvc inspect kernels/libnet_avx2.a\n"
        "  qconvc inspect kernels/libnet_avx2.a --cpu znver3 --brief\n"
        "  qconvc inspect net.json --target avx512 --cpu icelake-server --json\n"
        "  qconvc inspect conv.json --target avx2 --stmt conv.html");
    command->callback([options] { inspect(*options); });
}

} // namespace qconv::tools
