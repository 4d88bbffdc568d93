// Compiles kernels from the kernel list (kernels.json) to object files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "qconv/qconv.h"

namespace qconv {

/// One row of kernels.json.
struct KernelRow {
    std::string name;                          ///< unique; docs/names.md has the grammar
    std::string generator;                     ///< name of a registered Halide generator
    std::map<std::string, std::string> params; ///< its generator params
    std::vector<std::string> targets;          ///< short target names
    qconv_kernel layout;                       ///< path and layout fields filled; name, target and call are not
};

/// Parses the text of kernels.json. Throws std::runtime_error that names the row and the field.
std::vector<KernelRow> parse_kernel_list(std::string_view json_text);

/// Shape a kernel is specialised for, counted as in qconv_layer_config; all 0 for a generic kernel.
struct ShapeConstants {
    int64_t in_channels = 0, out_channels = 0, kernel_size = 0, stride = 0, dilation = 0, groups = 0;
};

/// Compiles one kernel into one object file, without Halide's runtime. Its entry points are `function_name` and, with
/// Halide's argv convention, `function_name`_argv. Throws std::runtime_error with the compiler's words.
void emit_kernel(const KernelRow &row, const std::string &halide_target, const ShapeConstants &shape,
                 const std::string &function_name, const std::filesystem::path &object_file);

/// Writes the loop nest that the same kernel is lowered to, as a web page. Throws as emit_kernel does.
void emit_loop_nest(const KernelRow &row, const std::string &halide_target, const ShapeConstants &shape,
                    const std::string &function_name, const std::filesystem::path &html_file);

/// Writes Halide's runtime for an operating system and architecture (CPU features of the target are ignored); for a GPU
/// target the one that knows CUDA and OpenCL.
void emit_halide_runtime(const std::string &halide_target, const std::filesystem::path &object_file);

} // namespace qconv
