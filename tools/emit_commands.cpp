// The emission verbs: one kernel, the Halide runtime, the table of generic kernels.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "tools/commands.h"
#include "tools/emit.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/kernel_table.h"
#include "tools/targets.h"

namespace qconv::tools {
namespace {

struct EmitOptions {
    std::string list, kernel, target, function, output, kind = "generic";
    std::vector<std::string> targets;
    std::vector<int64_t> shape, sizes;
    std::string sanitizer;
};

void add_sanitizer_option(CLI::App *command, EmitOptions &options, const char *text) {
    command->add_option("--sanitizer", options.sanitizer, text)->check(CLI::IsMember({"asan", "tsan"}));
}

/// As Halide spells it.
std::string sanitized(const TargetInfo &target, const EmitOptions &options) {
    return target.halide + (options.sanitizer.empty() ? "" : "-" + options.sanitizer);
}

/// Runs `emit` on a name beside `output`, then renames, so that a killed build leaves no object that looks complete.
template <class Emit>
void emit_atomically(const std::string &output, Emit emit) {
    // Halide tells the file type by its ending.
    const std::filesystem::path partial = output + ".partial" + std::filesystem::path(output).extension().string();
    try {
        emit(partial);
        put_in_place(partial, output);
    } catch (...) {
        std::error_code ignored;
        std::filesystem::remove(partial, ignored);
        throw;
    }
}

void emit_one_kernel(const EmitOptions &options) {
    const TargetInfo target = find_target(options.target);
    ShapeConstants shape;
    if (!options.shape.empty()) {
        const std::vector<int64_t> &s = options.shape;
        shape = {s[0], s[1], s[2], s[3], s[4], s[5]};
    }
    for (const KernelRow &row : parse_kernel_list(read_text(options.list))) {
        // Names repeat across targets: a row holds the params of some of them.
        if (row.name != options.kernel) continue;
        if (std::find(row.targets.begin(), row.targets.end(), target.name) == row.targets.end()) continue;
        CallSizes sizes;
        if (!options.sizes.empty()) sizes = {options.sizes[0], options.sizes[1], options.sizes[2]};
        emit_atomically(options.output, [&](const std::filesystem::path &file) {
            EmitFiles files;
            (file.extension() == ".html" ? files.loop_nest : files.object) = file;
            emit_kernel(row, sanitized(target, options), shape, sizes, options.function, files);
        });
        return;
    }
    throw InputError(fmt::format("{}: no kernel for {} is called '{}'", options.list, target.name, options.kernel));
}

} // namespace

void add_emit_kernel_command(CLI::App &app, const char *name) {
    auto options = std::make_shared<EmitOptions>();
    CLI::App *command = app.add_subcommand(name, "Compile one kernel of a kernel list to an object file");
    command->add_option("--list", options->list, "The kernel list")->required();
    command->add_option("--kernel", options->kernel, "Name of the row")->required();
    command->add_option("--target", options->target, "Target")->required();
    command->add_option("--function", options->function, "Symbol name")->required();
    command->add_option("--shape", options->shape, "in_channels out_channels kernel_size stride dilation groups")
        ->expected(6);
    command->add_option("--sizes", options->sizes, "width width_out batch, for an autoscheduler")->expected(3);
    add_sanitizer_option(command, *options, "Instrument the kernel: link it with -fsanitize too");
    command->add_option("-o,--output", options->output, "Object file, or .html: the lowered loop nest")->required();
    command->callback([options] { emit_one_kernel(*options); });
}

void add_emit_runtime_command(CLI::App &app, const char *name) {
    auto options = std::make_shared<EmitOptions>();
    CLI::App *command = app.add_subcommand(name, "Write the Halide runtime of a target's OS and architecture");
    command->add_option("--target", options->target, "Target")->required();
    add_sanitizer_option(command, *options, "Tell the sanitizer of its locks: link it with -fsanitize too");
    command->add_option("-o,--output", options->output, "Object file")->required();
    command->callback([options] {
        emit_atomically(options->output, [&](const std::filesystem::path &file) {
            emit_halide_runtime(sanitized(find_target(options->target), *options), file);
        });
    });
}

void add_emit_table_command(CLI::App &app, const char *name) {
    auto options = std::make_shared<EmitOptions>();
    CLI::App *command = app.add_subcommand(name, "Write the registration table of all generic kernels");
    command->add_option("--list", options->list, "The kernel list")->required();
    command->add_option("--targets", options->targets, "Targets whose kernels are in the build")->required();
    command->add_option("--kind", options->kind, "Part of the function's name: qconv_register_KIND_kernels")
        ->capture_default_str();
    command->add_option("-o,--output", options->output, "C++ file")->required();
    command->callback([options] {
        const std::vector<KernelRow> list = parse_kernel_list(read_text(options->list));
        write_atomically(options->output, generic_table_source(list, options->targets, options->kind));
    });
}

} // namespace qconv::tools
