#include "tools/kernel_loading.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <filesystem>

#include "tools/compiler.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace fs = std::filesystem;
namespace {

/// Registered rows, and the names in them, live as long as the process.
void register_for_good(std::vector<qconv_kernel> rows) {
    static std::deque<std::vector<qconv_kernel>> kept;
    const std::vector<qconv_kernel> &stored = kept.emplace_back(std::move(rows));
    if (qconv_register_kernels(stored.data(), stored.size()) != QCONV_OK) throw EnvironmentError(qconv_last_error());
}

void *load(const fs::path &library) {
    void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) throw EnvironmentError(fmt::format("cannot load {}: {}", library.string(), dlerror()));
    return handle;
}

void *symbol(void *library, const std::string &name) {
    void *address = dlsym(library, name.c_str());
    if (!address) throw EnvironmentError(fmt::format("cannot load a kernel: {}", dlerror()));
    return address;
}

/// Links a static library of kernels into one that can be loaded; its Halide calls bind to the runtime in qconvc.
fs::path link_shared(const fs::path &archive) {
    const fs::path shared = fs::path(archive).replace_extension(".so");
    const fs::path log = shared.string() + ".log";
    const int status = run_program(
        {"cc", "-shared", "-o", shared.string(), "-Wl,--whole-archive", archive.string(), "-Wl,--no-whole-archive"},
        log);
    check_interrupt();
    if (status == 127) throw EnvironmentError("specialised kernels are linked with 'cc', which was not found on PATH");
    if (status != 0) throw EnvironmentError(fmt::format("linking with 'cc' failed: {}", last_words(log)));
    return shared;
}

} // namespace

void register_generic_kernels(const std::vector<TargetInfo> &targets) {
    static void *module = [] {
        const fs::path path = fs::read_symlink("/proc/self/exe").parent_path() / "../lib/qconv/libqconv_kernels.so";
        if (!fs::exists(path)) {
            throw EnvironmentError(
                fmt::format("the generic kernels are not built: {} is missing (./dev build makes it)",
                            path.lexically_normal().string()));
        }
        return load(path);
    }();
    const auto rows = reinterpret_cast<const qconv_kernel *(*)(std::size_t *)>(symbol(module, "qconv_generic_kernels"));
    std::size_t count = 0;
    const qconv_kernel *first = rows(&count);
    std::vector<qconv_kernel> wanted;
    std::copy_if(first, first + count, std::back_inserter(wanted), [&](const qconv_kernel &row) {
        return std::any_of(targets.begin(), targets.end(), [&](const TargetInfo &t) { return t.name == row.target; });
    });
    register_for_good(std::move(wanted));
}

void register_specialised_kernels(const std::vector<LayerSpec> &layers, const std::vector<TargetInfo> &targets,
                                  int jobs) {
    static std::deque<std::string> names;
    ScratchFolder scratch(temporary_folder());
    const CompileOptions options{"verified", targets, jobs};
    const Compiled compiled = compile_layers(layers, options, scratch.path());
    for (const TargetInfo &target : targets) {
        void *library = load(link_shared(scratch.path() / library_file(options, target)));
        std::vector<qconv_kernel> rows;
        for (const CompiledKernel &kernel : compiled.kernels) {
            if (kernel.target.name != target.name) continue;
            const auto &known = known_targets();
            const auto same = [&](const TargetInfo &other) { return other.name == target.name; };
            qconv_kernel row = kernel.row.layout;
            row.name = names.emplace_back(kernel.name).c_str();
            row.target = std::find_if(known.begin(), known.end(), same)->name.c_str();
            row.call = reinterpret_cast<int (*)(void **)>(symbol(library, kernel.function + "_argv"));
            row.in_channels = kernel.shape.in_channels;
            row.out_channels = kernel.shape.out_channels;
            row.kernel_size = kernel.shape.kernel_size;
            row.stride = kernel.shape.stride;
            row.dilation = kernel.shape.dilation;
            row.groups = kernel.shape.groups;
            rows.push_back(row);
        }
        register_for_good(std::move(rows));
    }
}

} // namespace qconv::tools
