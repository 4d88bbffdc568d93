// Registration tables: qconv_kernel rows as C source.
#pragma once

#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "tools/emit.h"

namespace qconv::tools {

struct TableRow {
    std::string name, target, function; // function: its argv entry is function + "_argv"
    qconv_kernel layout{};              // path and layout fields
    ShapeConstants shape;
};

/// Declarations of the argv entries, one a line.
std::string kernel_declarations(const std::vector<TableRow> &rows);

/// `static const qconv_kernel rows[] = {...};`, valid C99 and C++20, indented by `indent`.
std::string kernel_rows(const std::vector<TableRow> &rows, const std::string &indent);

/// The translation unit behind qconv_register_KIND_kernels(), KIND being "generic" or "gpu": the kernels of these
/// targets.
std::string generic_table_source(const std::vector<KernelRow> &list, const std::vector<std::string> &targets,
                                 const std::string &kind);

/// The name under which the build emits a generic kernel.
std::string generic_function_name(const std::string &kernel, const std::string &target);

} // namespace qconv::tools
