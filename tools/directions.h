// Directions and ops of a layer as the command line names them: forward, grad-input, grad-weight, save-state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::tools {

/// "grad-input" of QCONV_OP_GRAD_INPUT: qconv_op_name with dashes.
std::string op_option(qconv_op op);
/// And back; throws InputError naming the option.
qconv_op parse_op(const std::string &text, const char *option);
/// The names of all ops.
std::vector<std::string> op_options();

/// The ops that are directions of their own: forward, grad_input, grad_weight.
const std::vector<qconv_op> &direction_ops();
/// Its bit; for direction_ops() only.
qconv_direction direction_of(qconv_op op);
/// The field of a configuration that forces its kernel; for direction_ops() only.
const char *&forced_kernel(qconv_layer_config &config, qconv_op op);
/// Those of a set of directions.
std::vector<qconv_op> ops_of(uint32_t directions);

/// What parse_directions takes: the names of direction_ops(), and "training" for all.
std::vector<std::string> direction_options();
/// The union, as bits of qconv_direction. Every name must be one of direction_options().
uint32_t parse_directions(const std::vector<std::string> &names);

} // namespace qconv::tools
