// From layers to static libraries: chooses a kernel for each layer and target, compiles it for the layer's shape in
// worker processes, and writes per target one library and one C header.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tools/emit.h"
#include "tools/layer_file.h"
#include "tools/targets.h"

namespace qconv::tools {

struct CompileOptions {
    std::string name; // of the libraries: lib<name>_<target>.a
    std::vector<TargetInfo> targets;
    int jobs = 1;
};

/// A kernel specialised for one shape, serving one or more layers.
struct CompiledKernel {
    KernelRow row;
    TargetInfo target;
    ShapeConstants shape;
    std::string name;     // in the registry: "<row>:<function>"
    std::string function; // symbol; the argv entry is function + "_argv"
    std::string first_layer;
    std::uintmax_t object_bytes = 0;
    double seconds = 0;
};

struct OutputFile {
    std::string name;
    std::uintmax_t bytes = 0;
};

struct Compiled {
    std::vector<CompiledKernel> kernels;
    std::vector<std::vector<std::size_t>> choice; // [target][layer]: index into kernels
    std::vector<OutputFile> files;                // in the order they should appear in the output folder
    double seconds = 0;
};

/// The row of kernels.json with the least estimated cost for this layer; throws InputError if none serves it.
const KernelRow &choose_kernel(const std::vector<KernelRow> &list, const LayerSpec &layer, const TargetInfo &target);

/// Compiles into `folder`, showing progress. Throws EnvironmentError naming the layer whose compilation failed.
Compiled compile_layers(const std::vector<LayerSpec> &layers, const CompileOptions &options,
                        const std::filesystem::path &folder);

std::string library_file(const CompileOptions &options, const TargetInfo &target);
std::string header_file(const CompileOptions &options, const TargetInfo &target);
/// Halide's runtime, one for all targets of an operating system and architecture.
std::string runtime_file(const TargetInfo &target);

} // namespace qconv::tools
