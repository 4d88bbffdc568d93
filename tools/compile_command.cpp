// qconvc compile
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/compiler.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
    std::string layers, folder, name;
    std::vector<std::string> targets;
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

Json manifest(const std::vector<LayerSpec> &layers, const CompileOptions &options, const Compiled &compiled,
              const std::string &source) {
    Json json = {{"qconv", qconv_version()},
                 {"halide", QCONV_HALIDE_VERSION},
                 {"options", {{"layers", source}, {"name", options.name}, {"jobs", options.jobs}}},
                 {"seconds", compiled.seconds}};
    for (const TargetInfo &target : options.targets) {
        json["options"]["targets"].push_back({{"name", target.name}, {"halide", target.halide}});
    }
    for (const OutputFile &file : compiled.files)
        json["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
    for (const CompiledKernel &k : compiled.kernels) {
        json["kernels"].push_back({{"name", k.name},
                                   {"kernel", k.row.name},
                                   {"path", qconv_path_name(k.row.layout.path)},
                                   {"target", k.target.name},
                                   {"function", k.function},
                                   {"shape", shape_json(k.shape)},
                                   {"params", k.row.params},
                                   {"object_bytes", k.object_bytes},
                                   {"seconds", k.seconds}});
    }
    for (std::size_t i = 0; i < layers.size(); i++) {
        Json layer = {{"name", layers[i].name}, {"layer", describe_layer(layers[i])}};
        for (std::size_t t = 0; t < options.targets.size(); t++) {
            const CompiledKernel &k = compiled.kernels[compiled.choice[t][i]];
            const std::string library = library_file(options, k.target);
            const auto file = std::find_if(compiled.files.begin(), compiled.files.end(),
                                           [&](const OutputFile &f) { return f.name == library; });
            layer["targets"][k.target.name] = {{"kernel", k.name},
                                               {"path", qconv_path_name(k.row.layout.path)},
                                               {"object_bytes", k.object_bytes},
                                               {"library", library},
                                               {"library_bytes", file->bytes}};
        }
        json["layers"].push_back(std::move(layer));
    }
    return json;
}

void print_summary(const std::vector<LayerSpec> &layers, const CompileOptions &options, const Compiled &compiled,
                   const std::string &folder) {
    constexpr std::size_t kShown = 40;
    for (std::size_t i = 0; i < std::min(layers.size(), kShown); i++) {
        fmt::print("{}: {}\n", layers[i].name, describe_layer(layers[i]));
        for (const std::vector<std::size_t> &choice : compiled.choice) {
            const CompiledKernel &k = compiled.kernels[choice[i]];
            if (k.first_layer == layers[i].name) {
                fmt::print("    {:<12} {:<32} {:>10}  {}\n", k.target.name, k.row.name, human_bytes(k.object_bytes),
                           human_seconds(k.seconds));
            } else {
                fmt::print("    {:<12} shared with {}\n", k.target.name, k.first_layer);
            }
        }
    }
    if (layers.size() > kShown) fmt::print("... and {} more layers (manifest.json)\n", layers.size() - kShown);
    fmt::print("\n{}, {}, {} in {}; in {}:\n", counted(layers.size(), "layer"),
               counted(compiled.kernels.size(), "kernel"), counted(options.targets.size(), "target"),
               human_seconds(compiled.seconds), folder);
    for (const OutputFile &file : compiled.files)
        fmt::print("    {:<44} {:>10}\n", file.name, human_bytes(file.bytes));
}

void compile(const Options &options) {
    const std::vector<LayerSpec> layers = read_layer_file(options.layers);
    CompileOptions compile_options{library_name(options), find_targets(options.targets), options.jobs};
    ScratchFolder scratch(options.folder);
    Compiled compiled = compile_layers(layers, compile_options, scratch.path());

    const std::string text = manifest(layers, compile_options, compiled, options.layers).dump(2) + "\n";
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
    command->add_option("-t,--target", options->targets, "host, all, sse41, avx2, avx512, avx512_zen4; may be repeated")
        ->required()
        ->allow_extra_args(false);
    command->add_option("-o,--output", options->folder, "Output folder, made if missing")->required();
    command->add_option("-n,--name", options->name, "Name of the libraries; default: the layer file's");
    command->add_option("-j,--jobs", options->jobs, "Compiler processes at once")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    command->add_flag("--json", options->json, "Print the manifest instead of a summary");
    command->footer(
        "Writes lib<name>_<target>.a and <name>_<target>.h for each target, the Halide runtime once, and\n"
        "manifest.json. Nothing is written unless all of it is.\n\n"
        "Examples:\n"
        "  qconvc compile net.json --target host -o kernels\n"
        "  qconvc compile net.json -t avx2 -t avx512_zen4 -o kernels --jobs 4\n"
        "  cc app.c -Ikernels kernels/libnet_avx2.a -lqconv kernels/libqconv_halide_runtime_x86-64-linux.a \\\n"
        "     -lstdc++ -lpthread -ldl -lm");
    command->callback([options] { compile(*options); });
}

} // namespace qconv::tools
