// Reads a .npy file of little-endian float32 in C order: all this example stores.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

inline std::vector<float> read_npy(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + ": cannot be read");
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(bytes[at])); };
    // Magic, version 1, length of the header as two bytes; then the header, a Python dictionary.
    if (bytes.size() < 10 || bytes.compare(0, 7, "\x93NUMPY\x01") != 0) {
        throw std::runtime_error(path.string() + ": not a .npy file, version 1");
    }
    const size_t start = 10 + byte(8) + 256 * byte(9);
    const std::string header = bytes.substr(10, start - 10);
    if (start > bytes.size() || header.find("'<f4'") == header.npos || header.find("False") == header.npos) {
        throw std::runtime_error(path.string() + ": not float32, little-endian, C order");
    }
    std::vector<float> values((bytes.size() - start) / sizeof(float));
    std::memcpy(values.data(), bytes.data() + start, values.size() * sizeof(float));
    return values;
}
