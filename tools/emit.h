// Compiles kernels from the kernel list (kernels.json) to object files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "tools/kernel_list.h"

namespace qconv {

/// Shape a kernel is specialised for, counted as in qconv_layer_config; all 0 for a generic kernel.
struct ShapeConstants {
    int64_t in_channels = 0, out_channels = 0, kernel_size = 0, stride = 0, dilation = 0, groups = 0;
};

/// Sizes of the calls that an autoscheduled kernel is made for.
struct CallSizes {
    int64_t width = 0, width_out = 0, batch = 1;
};

/// What to write; empty paths are not written. Schedule and featurization exist for autoscheduled kernels only, the
/// latter for adams2019's. The loop nest that the kernel is lowered to is a web page.
struct EmitFiles {
    std::filesystem::path object, loop_nest, schedule, featurization;
};

/// Compiles one kernel, without Halide's runtime, with the autoscheduler that the row names if it does (for a shape and
/// `sizes`). Its entry points are `function_name` and, with Halide's argv convention, `function_name`_argv. Throws
/// std::runtime_error with the compiler's words.
void emit_kernel(const KernelRow &row, const std::string &halide_target, const ShapeConstants &shape,
                 const CallSizes &sizes, const std::string &function_name, const EmitFiles &files);

/// Writes Halide's runtime for an operating system and architecture (CPU features of the target are ignored); for a GPU
/// target the one that knows CUDA and OpenCL.
void emit_halide_runtime(const std::string &halide_target, const std::filesystem::path &object_file);

} // namespace qconv
