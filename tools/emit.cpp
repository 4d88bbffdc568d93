#include "tools/emit.h"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "Halide.h"

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
                                                          {"bits_to_float", QCONV_OP_BITS_TO_FLOAT}};
    return table;
}

/// Halide's exceptions are no std::exception; callers should not need to know.
template <class Emit>
void translating_errors(Emit emit) {
    try {
        emit();
    } catch (const Halide::Error &error) {
        throw std::runtime_error(error.what());
    }
}

int32_t int_param(const KernelRow &row, const std::string &key, int32_t missing) {
    const auto found = row.params.find(key);
    if (found == row.params.end()) return missing;
    if (found->second == "true" || found->second == "false") return found->second == "true";
    return std::stoi(found->second);
}

/// OpenCL has popcount as a builtin function; Halide's back end calls one that it does not define.
class PopcountBuiltin : public Halide::Internal::IRMutator {
    using Halide::Internal::IRMutator::visit;
    Halide::Expr visit(const Halide::Internal::Call *op) override {
        using Halide::Internal::Call;
        if (!op->is_intrinsic(Call::popcount)) return IRMutator::visit(op);
        return Call::make(op->type, "popcount", {mutate(op->args[0])}, Call::PureExtern);
    }
};

/// As AbstractGenerator::build_module, which has no place for passes of our own.
Halide::Module build_module(Halide::Internal::AbstractGenerator &generator, const std::string &function_name,
                            const Halide::Target &target) {
    using namespace Halide::Internal;
    Halide::Pipeline pipeline = generator.build_pipeline();
    if (target.has_feature(Halide::Target::OpenCL)) pipeline.add_custom_lowering_pass(new PopcountBuiltin);
    std::vector<Halide::Argument> arguments;
    for (const AbstractGenerator::ArgInfo &info : generator.arginfos()) {
        if (info.dir != ArgInfoDirection::Input) continue;
        for (const Halide::Parameter &p : generator.input_parameter(info.name)) {
            arguments.emplace_back(p.name(),
                                   p.is_buffer() ? Halide::Argument::InputBuffer : Halide::Argument::InputScalar,
                                   p.type(), p.dimensions(), p.get_argument_estimates());
        }
    }
    return pipeline.compile_to_module(arguments, function_name, target, Halide::LinkageType::ExternalPlusMetadata);
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
    return row;
}

} // namespace

std::vector<KernelRow> parse_kernel_list(std::string_view json_text) {
    std::vector<KernelRow> rows;
    const nlohmann::json list = nlohmann::json::parse(json_text);
    for (const nlohmann::json &item : list) {
        try {
            rows.push_back(parse_row(item));
        } catch (const std::exception &error) {
            throw std::runtime_error("kernel list, row " + std::to_string(rows.size()) + ": " + error.what());
        }
    }
    return rows;
}

namespace {

/// Compiles one kernel to a file of that type.
void emit(const KernelRow &row, const std::string &halide_target, const ShapeConstants &shape,
          const std::string &function_name, Halide::OutputFileType type, const std::filesystem::path &file) {
    using Halide::Target;
    Target target = Target(halide_target)
                        .with_feature(Target::UserContext)
                        .with_feature(Target::NoRuntime)
                        .with_feature(Target::NoBoundsQuery);
    // The runtime validates sizes once per layer, so that kernels need not on every call. On a GPU the same checks see
    // to what a launch or an allocation returns.
    if (!target.has_gpu_feature()) target.set_feature(Target::NoAsserts);
    std::map<std::string, std::string> params = row.params;
    // Saving the state depends on no shape.
    if (shape.in_channels > 0 && row.layout.op != QCONV_OP_SAVE_STATE) {
        params["in_channels"] = std::to_string(shape.in_channels);
        params["out_channels"] = std::to_string(shape.out_channels);
        params["kernel_size"] = std::to_string(shape.kernel_size);
        params["stride"] = std::to_string(shape.stride);
        params["dilation"] = std::to_string(shape.dilation);
        params["groups"] = std::to_string(shape.groups);
    }
    // Paired loads fill a whole cycle and more of in-order cores, and gain nothing on others
    // (bench/results/arm-mca.md). LLVM takes this once a process, before its first kernel; what the user says instead
    // stands.
    if (target.arch == Target::ARM && target.bits == 64) setenv("HL_LLVM_ARGS", "-aarch64-enable-ldst-opt=false", 0);
    translating_errors([&] {
        const auto generator =
            Halide::Internal::GeneratorRegistry::create(row.generator, Halide::GeneratorContext(target));
        generator->set_generatorparam_values(params);
        build_module(*generator, function_name, target).compile({{type, file.string()}});
    });
}

} // namespace

void emit_kernel(const KernelRow &row, const std::string &halide_target, const ShapeConstants &shape,
                 const std::string &function_name, const std::filesystem::path &object_file) {
    emit(row, halide_target, shape, function_name, Halide::OutputFileType::object, object_file);
}

void emit_loop_nest(const KernelRow &row, const std::string &halide_target, const ShapeConstants &shape,
                    const std::string &function_name, const std::filesystem::path &html_file) {
    emit(row, halide_target, shape, function_name, Halide::OutputFileType::conceptual_stmt_html, html_file);
}

void emit_halide_runtime(const std::string &halide_target, const std::filesystem::path &object_file) {
    using Halide::Target;
    const Target full(halide_target);
    std::vector<Target::Feature> features{Target::UserContext};
    // One runtime serves both kinds of GPU, so that a program needs no other.
    if (full.has_gpu_feature()) features.insert(features.end(), {Target::CUDA, Target::OpenCL});
    const Target bare(full.os, full.arch, full.bits, features);
    translating_errors([&] { Halide::compile_standalone_runtime(object_file.string(), bare); });
}

} // namespace qconv
