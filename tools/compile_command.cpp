// qconvc compile
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/compiler.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/report.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
    std::string layers, folder, name, tuned;
    std::vector<std::string> targets, directions = {"forward"};
    int jobs = usable_cpus();
    bool json = false;
};

/// A library name that the linker and a C compiler take: the layer file's name unless given.
std::string library_name(const Options &options) {
    const std::string name =
        options.name.empty() ? std::filesystem::path(options.layers).stem().string() : options.name;
    const std::string usable = identifier(name);
    if (options.name.empty() || usable == name) return usable;
    throw InputError(
        fmt::format("--name '{}': letters, digits and '_' only, no digit first, for instance '{}'", name, usable));
}

Json shape_json(const ShapeConstants &s) {
    return {{"in_channels", s.in_channels}, {"out_channels", s.out_channels}, {"kernel_size", s.kernel_size},
            {"stride", s.stride},           {"dilation", s.dilation},         {"groups", s.groups}};
}

/// The kernels of one layer in one library, by op.
Json layer_kernels_json(const Compiled &compiled, const LayerKernels &kernels) {
    Json json;
    for (const auto &[op, index] : kernels) {
        const CompiledKernel &k = compiled.kernels[index];
        json[qconv_op_name(op)] = {
            {"kernel", k.name}, {"path", qconv_path_name(k.row.layout.path)}, {"object_bytes", k.object_bytes}};
    }
    return json;
}

Json manifest(const std::vector<LayerSpec> &layers, const CompileOptions &options, const Compiled &compiled,
              const std::string &source, const std::vector<std::string> &directions) {
    Json json = {
        {"qconv", qconv_version()},
        {"halide", QCONV_HALIDE_VERSION},
        {"options", {{"layers", source}, {"name", options.name}, {"jobs", options.jobs}, {"directions", directions}}},
        {"seconds", compiled.seconds}};
    for (const TargetInfo &target : options.targets) {
        json["options"]["targets"].push_back({{"name", target.label}, {"halide", target.halide}});
    }
    if (options.tuned) {
        json["tuned"] = {{"file", options.tuned->file().string()},
                         {"valid_records", options.tuned->valid()},
                         {"stale_records", options.tuned->stale()}};
    }
    for (const OutputFile &file : compiled.files)
        json["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
    for (const CompiledKernel &k : compiled.kernels) {
        Json kernel = {{"name", k.name},
                       {"kernel", k.row.name},
                       {"op", qconv_op_name(k.row.layout.op)},
                       {"path", qconv_path_name(k.row.layout.path)},
                       {"target", k.target.label},
                       {"function", k.function},
                       {"shape", shape_json(k.shape)},
                       {"params", k.row.params},
                       {"object_bytes", k.object_bytes},
                       {"seconds", k.seconds}};
        if (k.row.layout.tile_width > 0) kernel["tile_width"] = k.row.layout.tile_width;
        if (!k.row.autoscheduler.name.empty()) {
            kernel["autoscheduler"] = {{"name", k.row.autoscheduler.name}, {"params", k.row.autoscheduler.params}};
        }
        if (!k.tuned.is_null()) kernel["tuned"] = k.tuned;
        json["kernels"].push_back(std::move(kernel));
    }
    for (std::size_t i = 0; i < layers.size(); i++) {
        Json layer = {{"name", layers[i].name}, {"layer", describe_layer(layers[i])}};
        for (std::size_t t = 0; t < options.targets.size(); t++) {
            const std::string library = library_file(options, options.targets[t]);
            const auto file = std::find_if(compiled.files.begin(), compiled.files.end(),
                                           [&](const OutputFile &f) { return f.name == library; });
            layer["targets"][options.targets[t].label] = {
                {"library", library},
                {"library_bytes", file->bytes},
                {"kernels", layer_kernels_json(compiled, compiled.choice[t][i])}};
        }
        json["layers"].push_back(std::move(layer));
    }
    return json;
}

/// What the records gave, after a line of the summary.
std::string describe_tuned(const CompiledKernel &kernel) {
    if (kernel.tuned.is_null()) return "";
    const std::string strategy = kernel.tuned["strategy"];
    if (strategy == "default") return "  tuned: the default is the best known";
    const std::string note = kernel.tuned.value("note", "");
    return fmt::format("  tuned: {:.2f}x the default, by {}{}{}", kernel.tuned["gain_over_default"].get<double>(),
                       strategy, kernel.tuned["confirmed"].get<bool>() ? "" : ", not confirmed",
                       note.empty() ? "" : "; " + note);
}

void print_summary(const std::vector<LayerSpec> &layers, const CompileOptions &options, const Compiled &compiled,
                   const std::string &folder) {
    constexpr std::size_t kShown = 40;
    const bool several = std::any_of(layers.begin(), layers.end(), [](const LayerSpec &layer) {
        return layer.config.directions != uint32_t{QCONV_FORWARD};
    });
    for (std::size_t i = 0; i < std::min(layers.size(), kShown); i++) {
        fmt::print("{}: {}\n", layers[i].name, describe_layer(layers[i]));
        for (const std::vector<LayerKernels> &choice : compiled.choice) {
            for (const auto &[op, index] : choice[i]) {
                const CompiledKernel &k = compiled.kernels[index];
                fmt::print("    {:<13} ", k.target.label);
                if (several) fmt::print("{:<12} ", op_option(op));
                if (k.first_layer == layers[i].name) {
                    fmt::print("{:<32} {:>10}  {}{}\n", k.row.name, human_bytes(k.object_bytes),
                               human_seconds(k.seconds), describe_tuned(k));
                } else {
                    fmt::print("shared with {}\n", k.first_layer);
                }
            }
        }
    }
    if (layers.size() > kShown) fmt::print("... and {} more layers (manifest.json)\n", layers.size() - kShown);
    fmt::print("\n{}, {}, {} in {}; in {}:\n", counted(layers.size(), "layer"),
               counted(compiled.kernels.size(), "kernel"), counted(options.targets.size(), "target"),
               human_seconds(compiled.seconds), printable(folder));
    for (const OutputFile &file : compiled.files)
        fmt::print("    {:<44} {:>10}\n", file.name, human_bytes(file.bytes));
}

void compile(const Options &options) {
    std::vector<LayerSpec> layers = read_layer_file(options.layers);
    for (LayerSpec &layer : layers)
        layer.config.directions = parse_directions(options.directions);
    CompileOptions compile_options{library_name(options), find_targets(options.targets), options.jobs, nullptr};
    std::optional<TunedKernels> tuned;
    if (!options.tuned.empty()) {
        tuned.emplace(options.tuned);
        compile_options.tuned = &*tuned;
        if (tuned->stale() > 0) {
            report(fmt::format("qconvc: {}: {} not used, the first because {}", options.tuned,
                               counted(tuned->stale(), "stale record"), tuned->stale_reason_seen()));
        }
    }
    ScratchFolder scratch(options.folder);
    Compiled compiled = compile_layers(layers, compile_options, scratch.path());

    const std::string text =
        manifest(layers, compile_options, compiled, options.layers, options.directions).dump(2) + "\n";
    write_atomically(scratch.path() / "manifest.json", text);
    compiled.files.push_back({"manifest.json", text.size()});
    std::vector<std::string> names;
    for (const OutputFile &file : compiled.files)
        names.push_back(file.name);
    scratch.publish(names);
    if (options.json) {
        fmt::print("{}", text);
    } else {
        print_summary(layers, compile_options, compiled, options.folder);
    }
}

} // namespace

void add_compile_command(CLI::App &app) {
    auto options = std::make_shared<Options>();
    CLI::App *command = app.add_subcommand("compile", "Compile the layers of a layer file into static libraries");
    command->add_option("layers", options->layers, "Layer file (JSON; see docs/qconvc.md)")->required();
    command
        ->add_option("-t,--target", options->targets,
                     "host, all of this architecture, or one of qconvc list targets; by commas, may be repeated")
        ->required()
        ->delimiter(',')
        ->allow_extra_args(false);
    command->add_option("-o,--output", options->folder, "Output folder, made if missing")->required();
    command->add_option("-n,--name", options->name, "Name of the libraries; default: the layer file's");
    command
        ->add_option("-d,--directions", options->directions,
                     "What the layers will do: forward, grad-input, grad-weight, or training for all; by commas")
        ->delimiter(',')
        ->check(CLI::IsMember(direction_options()))
        ->capture_default_str();
    command->add_option("-j,--jobs", options->jobs, "Compiler processes at once")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    command->add_option("--tuned", options->tuned,
                        "Database or file of tuning records: the best kernel known for each layer (qconvc tune)");
    command->add_flag("--json", options->json, "Print the manifest instead of a summary");
    command->footer(
        "Writes lib<name>_<target>.a and <name>_<target>.h for each target, the Halide runtime once a platform, and\n"
        "manifest.json. Nothing is written unless all of it is.\n\n"
        "Examples:\n"
        "  qconvc compile net.json --target host -o kernels\n"
        "  qconvc compile net.json --target host -o kernels --directions training\n"
        "  qconvc compile net.json --target host -o kernels --tuned tuned.db\n"
        "  qconvc compile net.json -t avx2 -t avx512_zen4 -o kernels --jobs 4\n"
        "  qconvc compile net.json -t arm64 -t arm64_dotprod -t arm-64-osx-arm_dot_prod -o kernels\n"
        "  cc app.c -Ikernels kernels/libnet_avx2.a -l:libqconv.a kernels/libqconv_halide_runtime_x86-64-linux.a \\\n"
        "     -lstdc++ -lpthread -ldl -lm");
    command->callback([options] { compile(*options); });
}

} // namespace qconv::tools
