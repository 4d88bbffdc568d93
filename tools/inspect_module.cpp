#include "tools/inspect_module.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

#include "tools/errors.h"

namespace qconv::tools {
namespace fs = std::filesystem;

inspect::InspectFunction *load_inspect_module() {
    const fs::path path =
        (fs::read_symlink("/proc/self/exe").parent_path() / "../lib/qconv/libqconv_inspect.so").lexically_normal();
    if (!fs::exists(path)) {
        throw EnvironmentError(
            fmt::format("inspect needs LLVM's libraries, and this qconvc was built without them: {} is missing "
                        "(apt-get install llvm-22-dev, then build again)",
                        path.string()));
    }
    void *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        throw EnvironmentError(
            fmt::format("inspect needs LLVM's libraries (Debian package libllvm22): cannot load {}", dlerror()));
    }
    return reinterpret_cast<inspect::InspectFunction *>(dlsym(module, "qconv_inspect"));
}

} // namespace qconv::tools
