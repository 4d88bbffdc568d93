#include "tools/emit.h"

#include <dlfcn.h>

#include <cctype>
#include <cstdlib>
#include <stdexcept>

#include "Halide.h"

namespace qconv {

namespace {

/// Halide's exceptions are no std::exception; callers should not need to know.
template <class Emit>
void translating_errors(Emit emit) {
    try {
        emit();
    } catch (const Halide::Error &error) {
        const std::string words = error.what();
        // Checks inside Halide say nothing but "Error: ".
        const auto colon = words.find(':');
        if (colon != std::string::npos && words.find_first_not_of(" \n", colon + 1) == std::string::npos)
            throw std::runtime_error("a check inside Halide failed (HL_DEBUG_CODEGEN=1 says which)");
        throw std::runtime_error(words);
    }
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

/// Autoschedulers are plug-ins that lie beside libHalide.
void load_autoscheduler(const std::string &name) {
    Dl_info halide{};
    dladdr(reinterpret_cast<const void *>(&Halide::load_plugin), &halide);
    std::string file = "libautoschedule_";
    for (const char c : name)
        file += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    // In a build tree qconvc finds libHalide by a link.
    const std::filesystem::path library = std::filesystem::canonical(halide.dli_fname);
    Halide::load_plugin((library.parent_path() / (file + ".so")).string());
}

} // namespace

void emit_kernel(const KernelRow &row, const std::string &halide_target, const ShapeConstants &shape,
                 const CallSizes &sizes, const std::string &function_name, const EmitFiles &files) {
    using Halide::Target;
    Target target = Target(halide_target)
                        .with_feature(Target::UserContext)
                        .with_feature(Target::NoRuntime)
                        .with_feature(Target::NoBoundsQuery);
    // The runtime validates sizes once per layer, so that kernels need not on every call. On a GPU the same checks see
    // to what a launch or an allocation returns.
    if (!target.has_gpu_feature()) target.set_feature(Target::NoAsserts);
    std::map<std::string, std::string> params = row.params;
    if (shape.in_channels > 0 && depends_on_shape(row.layout.op)) {
        params["in_channels"] = std::to_string(shape.in_channels);
        params["out_channels"] = std::to_string(shape.out_channels);
        params["kernel_size"] = std::to_string(shape.kernel_size);
        params["stride"] = std::to_string(shape.stride);
        params["dilation"] = std::to_string(shape.dilation);
        params["groups"] = std::to_string(shape.groups);
    }
    const Autoscheduler &autoscheduler = row.autoscheduler;
    if (!autoscheduler.name.empty()) {
        if (shape.in_channels == 0 || sizes.width == 0)
            throw std::runtime_error("an autoscheduler needs the layer's shape and sizes");
        params["width_estimate"] = std::to_string(sizes.width);
        params["width_out_estimate"] = std::to_string(sizes.width_out);
        params["batch_estimate"] = std::to_string(sizes.batch);
    }
    std::map<Halide::OutputFileType, std::string> outputs;
    const auto add = [&](Halide::OutputFileType type, const std::filesystem::path &file) {
        if (!file.empty()) outputs[type] = file.string();
    };
    add(Halide::OutputFileType::object, files.object);
    add(Halide::OutputFileType::conceptual_stmt_html, files.loop_nest);
    add(Halide::OutputFileType::schedule, files.schedule);
    add(Halide::OutputFileType::featurization, files.featurization);
    // Paired loads fill a whole cycle and more of in-order cores, and gain nothing on others
    // (bench/results/arm-mca.md). LLVM takes this once a process, before its first kernel; what the user says instead
    // stands.
    if (target.arch == Target::ARM && target.bits == 64) setenv("HL_LLVM_ARGS", "-aarch64-enable-ldst-opt=false", 0);
    translating_errors([&] {
        if (!autoscheduler.name.empty()) load_autoscheduler(autoscheduler.name);
        const Halide::AutoschedulerParams scheduling(autoscheduler.name, autoscheduler.params);
        const auto generator =
            Halide::Internal::GeneratorRegistry::create(row.generator, Halide::GeneratorContext(target, scheduling));
        generator->set_generatorparam_values(params);
        Halide::Module module = autoscheduler.name.empty() ? build_module(*generator, function_name, target)
                                                           : generator->build_module(function_name);
        module.compile(outputs);
    });
}

void emit_halide_runtime(const std::string &halide_target, const std::filesystem::path &object_file) {
    using Halide::Target;
    const Target full(halide_target);
    std::vector<Target::Feature> features{Target::UserContext};
    // One runtime serves both kinds of GPU, so that a program needs no other.
    if (full.has_gpu_feature()) features.insert(features.end(), {Target::CUDA, Target::OpenCL});
    if (full.has_feature(Target::TSAN)) features.push_back(Target::TSAN); // tells of its locks
    const Target bare(full.os, full.arch, full.bits, features);
    translating_errors([&] { Halide::compile_standalone_runtime(object_file.string(), bare); });
}

} // namespace qconv
