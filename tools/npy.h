// .npy files: float32, little-endian, C order; anything else is refused with what was found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "tools/files.h"

namespace qconv::tools {

struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> data;
};

/// "(2, 3, 100)".
std::string shown_shape(std::span<const int64_t> shape);

/// Throws InputError naming the file and what is wrong with it.
Tensor read_npy(const std::filesystem::path &path);

/// Writes a tensor into a set of files. Throws EnvironmentError.
void add_npy(FileSet &files, const std::filesystem::path &path, std::span<const int64_t> shape,
             std::span<const float> data);

} // namespace qconv::tools
