// Static libraries, written by Halide's archiver: users need no binutils to compile.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace qconv::tools {

/// Throws EnvironmentError naming the library.
void write_static_library(const std::vector<std::filesystem::path> &objects, const std::string &halide_target,
                          const std::filesystem::path &library);

} // namespace qconv::tools
