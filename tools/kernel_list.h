// The kernel list: kernels.json, and rows of its form that a tuning run makes up. Needs no Halide.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "qconv/qconv.h"

namespace qconv {

/// One of Halide's autoschedulers, in place of our schedules.
struct Autoscheduler {
    std::string name; ///< "Mullapudi2016", "Li2018", "Adams2019", "Anderson2021"; "": our schedules
    std::map<std::string, std::string> params;
};

/// One row of kernels.json.
struct KernelRow {
    std::string name;                          ///< unique; docs/names.md has the grammar
    std::string generator;                     ///< name of a registered Halide generator
    std::map<std::string, std::string> params; ///< its generator params
    std::vector<std::string> targets;          ///< short target names
    Autoscheduler autoscheduler;               ///< never in kernels.json: a tuning run's candidates have one
    qconv_kernel layout;                       ///< path and layout fields filled; name, target and call are not
};

/// Parses the text of kernels.json. Throws std::runtime_error that names the row and the field.
std::vector<KernelRow> parse_kernel_list(std::string_view json_text);

/// Parses one such row (a JSON object; its further keys are not read). Throws std::exception.
KernelRow parse_kernel_row(std::string_view json_text);
/// And back: a JSON object on one line.
std::string kernel_row_json(const KernelRow &row);

/// Whether a kernel of this op can be specialised for a layer's shape; the others go element by element.
constexpr bool depends_on_shape(qconv_op op) {
    return op != QCONV_OP_SAVE_STATE && op != QCONV_OP_GRAD_BIAS;
}

} // namespace qconv
