// Workload tables: CSV files of convolution shapes, one layer a row (bench/README.md explains the columns).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::tools {

struct Workload {
    std::string name; // "network/layer"
    int64_t in_channels = 1, out_channels = 1, kernel_size = 1, stride = 1;
    int64_t pad_left = 0, pad_right = 0, dilation = 1, groups = 1;
    int64_t width = 1;
    int64_t batch = 1;

    int64_t width_out() const { return (width + pad_left + pad_right - dilation * (kernel_size - 1) - 1) / stride + 1; }
    /// Multiply-adds of one call, whatever the bit widths.
    double macs() const {
        const int64_t channels = in_channels / groups;
        return static_cast<double>(batch) * static_cast<double>(out_channels) * static_cast<double>(channels) *
               static_cast<double>(kernel_size) * static_cast<double>(width_out());
    }
};

/// Reads a table. Columns are found by name, in any order; further columns are ignored. Throws InputError that
/// names the file, the line, the column, the value and what is allowed.
std::vector<Workload> read_workloads(const std::filesystem::path &csv);
/// The table that is built in: bench/workloads.csv.
std::vector<Workload> builtin_workloads();

/// Copies the shape and the width into a layer configuration.
void set_shape(const Workload &workload, qconv_layer_config &config);

} // namespace qconv::tools
