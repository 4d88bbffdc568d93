#include "tools/archive.h"

#include <Halide.h>
#include <fmt/format.h>

#include "tools/errors.h"

namespace qconv::tools {

void write_static_library(const std::vector<std::filesystem::path> &objects, const std::string &halide_target,
                          const std::filesystem::path &library) {
    std::vector<std::string> names;
    for (const std::filesystem::path &object : objects)
        names.push_back(object.string());
    try {
        Halide::create_static_library(names, Halide::Target(halide_target), library.string());
    } catch (const Halide::Error &error) {
        throw EnvironmentError(fmt::format("{}: cannot write it: {}", library.filename().string(), error.what()));
    }
}

} // namespace qconv::tools
