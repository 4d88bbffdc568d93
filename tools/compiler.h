// From layers to static libraries: chooses a kernel for each layer and target, compiles it for the layer's shape in
// worker processes, and writes per target one library and one C header.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tools/emit.h"
#include "tools/layer_file.h"
#include "tools/targets.h"
#include "tools/tuned.h"

namespace qconv::tools {

struct CompileOptions {
    std::string name; // of the libraries: lib<name>_<target>.a
    std::vector<TargetInfo> targets;
    int jobs = 1;
    const TunedKernels *tuned = nullptr; // records to choose kernels by
};

/// A kernel specialised for one op and shape, serving one or more layers.
struct CompiledKernel {
    KernelRow row;
    TargetInfo target;
    ShapeConstants shape;
    std::string name;     // in the registry: "<row>:<function>"
    std::string function; // symbol; the argv entry is function + "_argv"
    std::string first_layer;
    CallSizes sizes;              // that an autoscheduled kernel is made for
    nlohmann::ordered_json tuned; // what the records say of it; null without any
    std::uintmax_t object_bytes = 0;
    double seconds = 0;
};

struct OutputFile {
    std::string name;
    std::uintmax_t bytes = 0;
};

/// The kernels of one layer for one target: indices into Compiled::kernels.
using LayerKernels = std::map<qconv_op, std::size_t>;

struct Compiled {
    std::vector<CompiledKernel> kernels;
    std::vector<std::vector<LayerKernels>> choice; // [target][layer]
    std::vector<OutputFile> files;                 // in the order they should appear in the output folder
    double seconds = 0;
};

/// The row of a list with the least estimated cost for one op of this layer. Throws InputError if none serves it.
const KernelRow &choose_kernel(const std::vector<KernelRow> &list, const LayerSpec &layer, qconv_op op,
                               const TargetInfo &target);

/// Compiles what each layer needs for its directions (config.directions) into `folder`, showing progress: the row of
/// kernels.json with the least estimated cost for each op. Throws InputError if no row serves an op of a layer, and
/// EnvironmentError naming the layer whose compilation failed.
Compiled compile_layers(const std::vector<LayerSpec> &layers, const CompileOptions &options,
                        const std::filesystem::path &folder);

/// Arguments of the worker that emits this kernel from the kernel list in `list`; its output is an object file, or the
/// lowered loop nest where the name ends in .html.
std::vector<std::string> emit_arguments(const CompiledKernel &kernel, const std::filesystem::path &list,
                                        const std::filesystem::path &output);

std::string library_file(const CompileOptions &options, const TargetInfo &target);
std::string header_file(const CompileOptions &options, const TargetInfo &target);
/// Halide's runtime, one for all targets of an operating system and architecture.
std::string runtime_file(const TargetInfo &target);

} // namespace qconv::tools
