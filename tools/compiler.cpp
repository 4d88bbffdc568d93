#include "tools/compiler.h"

#include <Halide.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "runtime/select.h"
#include "runtime/surrogate.h"
#include "tools/archive.h"
#include "tools/directions.h"
#include "tools/embedded.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/kernel_table.h"
#include "tools/progress.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace fs = std::filesystem;
namespace {

/// What an op's kernel is specialised for; all layers share one where that is nothing.
ShapeConstants shape_of(const qconv_layer_config &config, qconv_op op) {
    if (!depends_on_shape(op)) return {};
    return {config.in_channels, config.out_channels, config.kernel_size, config.stride, config.dilation, config.groups};
}

auto key_of(const ShapeConstants &s) {
    return std::tuple(s.in_channels, s.out_channels, s.kernel_size, s.stride, s.dilation, s.groups);
}

} // namespace

const KernelRow &choose_kernel(const std::vector<KernelRow> &list, const LayerSpec &layer, qconv_op op,
                               const TargetInfo &target) {
    const KernelRow *best = nullptr;
    double least = INFINITY;
    for (const KernelRow &row : list) {
        if (row.layout.op != op) continue;
        if (std::find(row.targets.begin(), row.targets.end(), target.name) == row.targets.end()) continue;
        qconv_kernel kernel = row.layout;
        kernel.name = row.name.c_str();
        kernel.target = target.name.c_str();
        const double cost = estimate_cost(kernel, layer.config);
        if (cost < least) least = cost, best = &row;
    }
    if (best) return *best;
    throw InputError(fmt::format("layer '{}' ({}): no {} kernel for {} serves it", layer.name, describe_layer(layer),
                                 op_option(op), target.name));
}

namespace {

bool on_device(const TargetInfo &target) {
    return Halide::Target(target.halide).has_gpu_feature();
}

/// The ops that a layer needs for its directions on this target.
std::vector<qconv_op> needed_ops(const qconv_layer_config &config, const TargetInfo &target) {
    std::vector<qconv_op> ops = ops_of(config.directions);
    if ((config.directions & QCONV_FORWARD) && saved(config) == QCONV_SAVES_STATE) ops.push_back(QCONV_OP_SAVE_STATE);
    const bool sums_bias = (config.directions & QCONV_GRAD_WEIGHT) && config.kind == QCONV_LAYER_CONV1D;
    if (sums_bias && on_device(target)) ops.push_back(QCONV_OP_GRAD_BIAS);
    return ops;
}

/// "conv1" forward, "conv1_grad_input" and so on: part of a symbol's name.
std::string symbol_part(const std::string &layer, qconv_op op) {
    return op == QCONV_OP_FORWARD ? layer : fmt::format("{}_{}", layer, qconv_op_name(op));
}

/// Chooses kernels and shares them among layers of one shape.
void plan(const std::vector<LayerSpec> &layers, const CompileOptions &options, Compiled &compiled) {
    const std::vector<KernelRow> list = parse_kernel_list(embedded_kernels_json);
    std::set<std::string> functions;
    for (const TargetInfo &target : options.targets) {
        std::map<std::pair<std::string, decltype(key_of({}))>, std::size_t> known;
        std::vector<LayerKernels> &choice = compiled.choice.emplace_back();
        for (const LayerSpec &layer : layers) {
            check_interrupt();
            LayerKernels &kernels = choice.emplace_back();
            for (const qconv_op op : needed_ops(layer.config, target)) {
                TunedChoice tuned;
                if (options.tuned && depends_on_shape(op)) tuned = options.tuned->choose(layer, op, target);
                const KernelRow row = tuned.row ? *tuned.row : choose_kernel(list, layer, op, target);
                const ShapeConstants shape = shape_of(layer.config, op);
                const auto [place, fresh] = known.try_emplace({row.name, key_of(shape)}, compiled.kernels.size());
                kernels[op] = place->second;
                if (!fresh) continue;
                const std::string base =
                    identifier(fmt::format("{}_{}_{}", options.name, symbol_part(layer.name, op), target.label));
                std::string function = base;
                for (int i = 2; !functions.insert(function).second; i++)
                    function = fmt::format("{}_{}", base, i);
                CompiledKernel &kernel = compiled.kernels.emplace_back();
                kernel.row = row;
                kernel.target = target;
                kernel.shape = shape;
                kernel.name = fmt::format("{}:{}", row.name, function);
                kernel.function = function;
                kernel.first_layer = layer.name;
                kernel.sizes = tuned.sizes;
                kernel.tuned = std::move(tuned.manifest);
            }
        }
    }
}

/// A comment line for each kernel: what it does, and for which shape.
std::string kernel_comments(const std::vector<TableRow> &rows) {
    std::string text;
    for (const TableRow &row : rows) {
        const ShapeConstants &s = row.shape;
        const std::string shape = s.in_channels == 0
                                      ? "any shape"
                                      : fmt::format("{}->{} k{} s{} d{} g{}", s.in_channels, s.out_channels,
                                                    s.kernel_size, s.stride, s.dilation, s.groups);
        text += fmt::format(" *   {:<11} {}: {}\n", qconv_op_name(row.layout.op), shape, row.name);
    }
    return text;
}

std::string header_text(const Compiled &compiled, const CompileOptions &options, const TargetInfo &target) {
    std::vector<TableRow> rows;
    for (const CompiledKernel &k : compiled.kernels) {
        if (k.target.label == target.label) rows.push_back({k.name, target.name, k.function, k.row.layout, k.shape});
    }
    const std::string prefix = identifier(fmt::format("{}_{}", options.name, target.label));
    std::string guard = prefix + "_h";
    std::transform(guard.begin(), guard.end(), guard.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return fmt::format(
        "/* Kernels of {name} for {target}, made by qconvc {version}.\n"
        " * Call {prefix}_register() once; layers of these shapes then use them, each for its op (qconv_op):\n"
        "{comments}"
        " * Link with {library}, libqconv.a and {runtime}, in this order. */\n"
        "#ifndef {guard}\n#define {guard}\n\n"
        "#include \"qconv/qconv.h\"\n\n"
        "#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n"
        "{declarations}\n"
        "static inline qconv_status {prefix}_register(void) {{\n{rows}"
        "    return qconv_register_kernels(rows, sizeof rows / sizeof rows[0]);\n}}\n\n"
        "#ifdef __cplusplus\n}}\n#endif\n#endif\n",
        fmt::arg("name", options.name), fmt::arg("target", target.label), fmt::arg("version", qconv_version()),
        fmt::arg("prefix", prefix), fmt::arg("library", library_file(options, target)),
        fmt::arg("runtime", runtime_file(target)), fmt::arg("guard", guard),
        fmt::arg("comments", kernel_comments(rows)), fmt::arg("declarations", kernel_declarations(rows)),
        fmt::arg("rows", kernel_rows(rows, "    ")));
}

} // namespace

std::vector<std::string> emit_arguments(const CompiledKernel &kernel, const fs::path &list, const fs::path &output) {
    const ShapeConstants &s = kernel.shape;
    std::vector<std::string> arguments = {"emit-kernel",   "--list",   list.string(),        "--kernel",
                                          kernel.row.name, "--target", kernel.target.halide, "--function",
                                          kernel.function, "--output", output.string(),      "--shape"};
    for (const int64_t n : {s.in_channels, s.out_channels, s.kernel_size, s.stride, s.dilation, s.groups})
        arguments.push_back(std::to_string(n));
    if (!kernel.row.autoscheduler.name.empty()) {
        const CallSizes &sizes = kernel.sizes;
        arguments.insert(arguments.end(), {"--sizes", std::to_string(sizes.width), std::to_string(sizes.width_out),
                                           std::to_string(sizes.batch)});
    }
    return arguments;
}

std::string library_file(const CompileOptions &options, const TargetInfo &target) {
    return archive_file(fmt::format("{}_{}", options.name, target.label), target);
}

std::string header_file(const CompileOptions &options, const TargetInfo &target) {
    return fmt::format("{}_{}.h", options.name, target.label);
}

std::string runtime_file(const TargetInfo &target) {
    // A program takes one: that with GPU support serves the CPU's kernels too.
    const std::string gpu = on_device(target) ? "_gpu" : "";
    return archive_file("qconv_halide_runtime_" + platform(target) + gpu, target);
}

Compiled compile_layers(const std::vector<LayerSpec> &layers, const CompileOptions &options, const fs::path &folder) {
    Compiled compiled;
    plan(layers, options, compiled);

    const fs::path list = folder / "kernels.json";
    std::string rows;
    std::set<std::string> listed;
    for (const CompiledKernel &k : compiled.kernels) {
        if (listed.insert(kernel_row_json(k.row)).second) rows += (rows.empty() ? "" : ",\n") + kernel_row_json(k.row);
    }
    write_atomically(list, "[" + rows + "]");
    std::vector<WorkerTask> tasks;
    std::vector<fs::path> objects;
    const auto add_task = [&](std::string label, std::vector<std::string> arguments, const fs::path &object) {
        objects.push_back(object);
        tasks.push_back({std::move(label), std::move(arguments), object.string() + ".log"});
    };
    for (const CompiledKernel &k : compiled.kernels) {
        const fs::path object = folder / (k.function + ".o");
        add_task(fmt::format("layer '{}', {}, for {}", k.first_layer, op_option(k.row.layout.op), k.target.label),
                 emit_arguments(k, list, object), object);
    }
    struct Runtime {
        std::string file;
        std::size_t object;
        const TargetInfo *target;
    };
    std::vector<Runtime> runtimes; // one a platform
    for (const TargetInfo &target : options.targets) {
        const std::string file = runtime_file(target);
        if (std::any_of(runtimes.begin(), runtimes.end(), [&](const Runtime &r) { return r.file == file; })) continue;
        runtimes.push_back({file, objects.size(), &target});
        const fs::path object = folder / (file + ".o");
        add_task("the Halide runtime for " + platform(target),
                 {"emit-runtime", "--target", target.halide, "--output", object.string()}, object);
    }

    Progress progress(tasks.size(), "kernels");
    run_workers(tasks, options.jobs, [&](std::size_t task, double seconds) {
        if (task < compiled.kernels.size()) {
            compiled.kernels[task].seconds = seconds;
            compiled.kernels[task].object_bytes = fs::file_size(objects[task]);
        }
        progress.advance(fmt::format("{}: {}", tasks[task].label, human_seconds(seconds)));
    });

    const auto add_file = [&](const std::string &name) {
        compiled.files.push_back({name, fs::file_size(folder / name)});
    };
    for (const Runtime &runtime : runtimes) {
        write_static_library({objects[runtime.object]}, runtime.target->halide, folder / runtime.file);
        add_file(runtime.file);
    }
    for (const TargetInfo &target : options.targets) {
        check_interrupt();
        std::vector<fs::path> members;
        for (std::size_t i = 0; i < compiled.kernels.size(); i++) {
            if (compiled.kernels[i].target.label == target.label) members.push_back(objects[i]);
        }
        write_static_library(members, target.halide, folder / library_file(options, target));
        add_file(library_file(options, target));
        write_atomically(folder / header_file(options, target), header_text(compiled, options, target));
        add_file(header_file(options, target));
    }
    compiled.seconds = progress.seconds();
    return compiled;
}

} // namespace qconv::tools
