#include "tools/directions.h"

#include <fmt/format.h>

#include <algorithm>

#include "tools/errors.h"
#include "tools/text.h"

namespace qconv::tools {

std::string op_option(qconv_op op) {
    std::string name = qconv_op_name(op);
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
}

std::vector<std::string> op_options() {
    std::vector<std::string> names;
    for (int op = 0; op < QCONV_OPS; op++)
        names.push_back(op_option(static_cast<qconv_op>(op)));
    return names;
}

qconv_op parse_op(const std::string &text, const char *option) {
    const std::vector<std::string> names = op_options();
    const auto found = std::find(names.begin(), names.end(), text);
    if (found != names.end()) return static_cast<qconv_op>(found - names.begin());
    throw InputError(
        fmt::format("{} '{}'{}; it must be one of {}", option, text, did_you_mean(text, names), join(names)));
}

const std::vector<qconv_op> &direction_ops() {
    static const std::vector<qconv_op> ops = {QCONV_OP_FORWARD, QCONV_OP_GRAD_INPUT, QCONV_OP_GRAD_WEIGHT};
    return ops;
}

qconv_direction direction_of(qconv_op op) {
    switch (op) {
        case QCONV_OP_GRAD_INPUT:
            return QCONV_GRAD_INPUT;
        case QCONV_OP_GRAD_WEIGHT:
            return QCONV_GRAD_WEIGHT;
        default:
            return QCONV_FORWARD;
    }
}

const char *&forced_kernel(qconv_layer_config &config, qconv_op op) {
    switch (op) {
        case QCONV_OP_GRAD_INPUT:
            return config.grad_input_kernel;
        case QCONV_OP_GRAD_WEIGHT:
            return config.grad_weight_kernel;
        default:
            return config.kernel;
    }
}

std::vector<qconv_op> ops_of(uint32_t directions) {
    std::vector<qconv_op> ops;
    std::copy_if(direction_ops().begin(), direction_ops().end(), std::back_inserter(ops),
                 [&](qconv_op op) { return (directions & direction_of(op)) != 0; });
    return ops;
}

std::vector<std::string> direction_options() {
    std::vector<std::string> names;
    for (const qconv_op op : direction_ops())
        names.push_back(op_option(op));
    names.emplace_back("training");
    return names;
}

uint32_t parse_directions(const std::vector<std::string> &names) {
    uint32_t directions = 0;
    for (const std::string &name : names)
        directions |= name == "training" ? QCONV_TRAINING : direction_of(parse_op(name, "direction"));
    return directions;
}

} // namespace qconv::tools
