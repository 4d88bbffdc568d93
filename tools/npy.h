// .npy files: float32, little-endian, C order; anything else is refused with what was found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace qconv::tools {

struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> data;
};

/// "(2, 3, 100)".
std::string shown_shape(std::span<const int64_t> shape);

/// Throws InputError naming the file and what is wrong with it.
Tensor read_npy(const std::filesystem::path &path);

/// Atomic. Throws EnvironmentError.
void write_npy(const std::filesystem::path &path, std::span<const int64_t> shape, std::span<const float> data);

} // namespace qconv::tools
