#include "tools/kernel_list.h"

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

namespace qconv {
namespace {

const std::map<std::string, qconv_path> &paths() {
    static const std::map<std::string, qconv_path> table = {{"b1b1", QCONV_PATH_B1B1},
                                                            {"int8", QCONV_PATH_INT8},
                                                            {"f32b1", QCONV_PATH_F32B1},
                                                            {"f32f32", QCONV_PATH_F32F32}};
    return table;
}

const std::map<std::string, qconv_op> &ops() {
    static const std::map<std::string, qconv_op> table = {{"forward", QCONV_OP_FORWARD},
                                                          {"grad_input", QCONV_OP_GRAD_INPUT},
                                                          {"grad_weight", QCONV_OP_GRAD_WEIGHT},
                                                          {"save_state", QCONV_OP_SAVE_STATE},
                                                          {"to_bits", QCONV_OP_TO_BITS},
                                                          {"bits_to_bits", QCONV_OP_BITS_TO_BITS},
                                                          {"bits_to_float", QCONV_OP_BITS_TO_FLOAT},
                                                          {"grad_bias", QCONV_OP_GRAD_BIAS}};
    return table;
}

template <class Value>
std::string name_in(const std::map<std::string, Value> &table, Value value) {
    for (const auto &[name, one] : table)
        if (one == value) return name;
    return "";
}

int32_t int_param(const KernelRow &row, const std::string &key, int32_t missing) {
    const auto found = row.params.find(key);
    if (found == row.params.end()) return missing;
    if (found->second == "true" || found->second == "false") return found->second == "true";
    return std::stoi(found->second);
}

KernelRow parse_row(const nlohmann::json &json) {
    KernelRow row{};
    row.name = json.at("name").get<std::string>();
    row.generator = json.at("generator").get<std::string>();
    row.params = json.at("params").get<std::map<std::string, std::string>>();
    row.targets = json.at("targets").get<std::vector<std::string>>();
    qconv_kernel &layout = row.layout;
    layout.op = ops().at(json.at("op").get<std::string>());
    layout.path = paths().at(json.at("path").get<std::string>());
    const bool words = layout.path == QCONV_PATH_B1B1 || layout.path == QCONV_PATH_INT8;
    layout.word_bits = words ? int_param(row, "word_bits", 32) : 0;
    layout.element_bits = layout.path == QCONV_PATH_B1B1 ? 1 : int_param(row, "element_bits", 0);
    layout.word_channels = int_param(row, "word_channels", 0);
    const int32_t planes = layout.path == QCONV_PATH_B1B1 ? 1 : 0;
    layout.input_planes = int_param(row, "input_planes", planes);
    layout.weight_planes = int_param(row, "weight_planes", planes);
    layout.table_channels = int_param(row, "table_channels", 0);
    layout.tables = int_param(row, "tables", 0);
    layout.out_block = int_param(row, "out_block", 1);
    layout.tap_block = int_param(row, "tap_block", 0);
    layout.channel_block = int_param(row, "channel_block", layout.tap_block > 0 ? 1 : 0);
    layout.width_block = int_param(row, "width_block", 1);
    layout.unit_stride = int_param(row, "unit_stride", 0);
    layout.window_sum = int_param(row, "window_sum", 0);
    layout.vector_words = int_param(row, "vector_words", 0);
    layout.level_offset = int_param(row, "level_offset", 0);
    layout.group_block = int_param(row, "group_block", 0);
    layout.tile_input = int_param(row, "tile_input", 0);
    // Not the generator's: the runtime's.
    layout.tile_width = json.value("tile_width", 0);
    if (json.contains("autoscheduler")) {
        const nlohmann::json &autoscheduler = json["autoscheduler"];
        row.autoscheduler.name = autoscheduler.at("name").get<std::string>();
        row.autoscheduler.params = autoscheduler.at("params").get<std::map<std::string, std::string>>();
    }
    return row;
}

} // namespace

std::vector<KernelRow> parse_kernel_list(std::string_view json_text) {
    std::vector<KernelRow> rows;
    std::set<std::pair<std::string, std::string>> known; // names and targets
    const nlohmann::json list = nlohmann::json::parse(json_text);
    for (const nlohmann::json &item : list) {
        try {
            rows.push_back(parse_row(item));
            for (const std::string &target : rows.back().targets) {
                if (!known.emplace(rows.back().name, target).second)
                    throw std::runtime_error("a second " + rows.back().name + " for " + target);
            }
        } catch (const std::exception &error) {
            throw std::runtime_error("kernel list, row " + std::to_string(rows.size()) + ": " + error.what());
        }
    }
    return rows;
}

KernelRow parse_kernel_row(std::string_view json_text) {
    return parse_row(nlohmann::json::parse(json_text));
}

std::string kernel_row_json(const KernelRow &row) {
    nlohmann::ordered_json json = {{"name", row.name},
                                   {"generator", row.generator},
                                   {"op", name_in(ops(), row.layout.op)},
                                   {"path", name_in(paths(), row.layout.path)},
                                   {"params", row.params},
                                   {"targets", row.targets}};
    if (row.layout.tile_width > 0) json["tile_width"] = row.layout.tile_width;
    if (!row.autoscheduler.name.empty()) {
        json["autoscheduler"] = {{"name", row.autoscheduler.name}, {"params", row.autoscheduler.params}};
    }
    return json.dump();
}

} // namespace qconv
