#include "tools/kernel_table.h"

#include <fmt/format.h>

#include <algorithm>

namespace qconv::tools {
namespace {

/// The enumerator, spelled as in qconv.h.
const char *path_enumerator(qconv_path path) {
    switch (path) {
        case QCONV_PATH_B1B1:
            return "QCONV_PATH_B1B1";
        case QCONV_PATH_INT8:
            return "QCONV_PATH_INT8";
        case QCONV_PATH_F32B1:
            return "QCONV_PATH_F32B1";
        default:
            return "QCONV_PATH_F32F32";
    }
}

const char *op_enumerator(qconv_op op) {
    switch (op) {
        case QCONV_OP_GRAD_INPUT:
            return "QCONV_OP_GRAD_INPUT";
        case QCONV_OP_GRAD_WEIGHT:
            return "QCONV_OP_GRAD_WEIGHT";
        case QCONV_OP_SAVE_STATE:
            return "QCONV_OP_SAVE_STATE";
        case QCONV_OP_TO_BITS:
            return "QCONV_OP_TO_BITS";
        case QCONV_OP_BITS_TO_BITS:
            return "QCONV_OP_BITS_TO_BITS";
        case QCONV_OP_BITS_TO_FLOAT:
            return "QCONV_OP_BITS_TO_FLOAT";
        case QCONV_OP_GRAD_BIAS:
            return "QCONV_OP_GRAD_BIAS";
        default:
            return "QCONV_OP_FORWARD";
    }
}

} // namespace

std::string kernel_declarations(const std::vector<TableRow> &rows) {
    std::string text;
    for (const TableRow &row : rows)
        text += fmt::format("int {}_argv(void **arguments);\n", row.function);
    return text;
}

std::string kernel_rows(const std::vector<TableRow> &rows, const std::string &indent) {
    std::string text = indent + "static const qconv_kernel rows[] = {\n";
    for (const TableRow &row : rows) {
        const qconv_kernel &k = row.layout;
        const ShapeConstants &s = row.shape;
        text += fmt::format("{}    {{.name = \"{}\", .target = \"{}\", .op = {}, .path = {}, .call = {}_argv,\n",
                            indent, row.name, row.target, op_enumerator(k.op), path_enumerator(k.path), row.function);
        text += fmt::format(
            "{}     .word_bits = {}, .element_bits = {}, .word_channels = {}, .input_planes = {},\n"
            "{}     .weight_planes = {}, .table_channels = {}, .tables = {}, .out_block = {},\n"
            "{}     .width_block = {}, .unit_stride = {}, .window_sum = {}, .channel_block = {}, .tap_block = {},\n"
            "{}     .vector_words = {}, .level_offset = {}, .tile_width = {}, .group_block = {},\n"
            "{}     .tile_input = {},\n",
            indent, k.word_bits, k.element_bits, k.word_channels, k.input_planes, indent, k.weight_planes,
            k.table_channels, k.tables, k.out_block, indent, k.width_block, k.unit_stride, k.window_sum,
            k.channel_block, k.tap_block, indent, k.vector_words, k.level_offset, k.tile_width, k.group_block, indent,
            k.tile_input);
        text += fmt::format(
            "{}     .in_channels = {}, .out_channels = {}, .kernel_size = {}, .stride = {}, "
            ".dilation = {},\n{}     .groups = {}}},\n",
            indent, s.in_channels, s.out_channels, s.kernel_size, s.stride, s.dilation, indent, s.groups);
    }
    return text + indent + "};\n";
}

std::string generic_function_name(const std::string &kernel, const std::string &target) {
    return fmt::format("qconv_{}_{}", kernel, target);
}

std::string generic_table_source(const std::vector<KernelRow> &list, const std::vector<std::string> &targets,
                                 const std::string &kind) {
    std::vector<TableRow> rows;
    for (const KernelRow &row : list) {
        for (const std::string &target : row.targets) {
            if (std::find(targets.begin(), targets.end(), target) == targets.end()) continue;
            rows.push_back({row.name, target, generic_function_name(row.name, target), row.layout, {}});
        }
    }
    return fmt::format(
        "// Kernels of any shape, one row a kernel and target. Made by qconvc-emit from kernels.json.\n"
        "#include \"qconv/qconv.h\"\n\n"
        "extern \"C\" {{\n{}}}\n\n{}"
        "\n// For tools that want some of the rows only.\n"
        "extern \"C\" const qconv_kernel *qconv_{kind}_kernels(size_t *count) {{\n"
        "    *count = sizeof rows / sizeof rows[0];\n"
        "    return rows;\n"
        "}}\n\n"
        "extern \"C\" qconv_status qconv_register_{kind}_kernels(void) {{\n"
        "    return qconv_register_kernels(rows, sizeof rows / sizeof rows[0]);\n"
        "}}\n",
        kernel_declarations(rows), kernel_rows(rows, ""), fmt::arg("kind", kind));
}

} // namespace qconv::tools
