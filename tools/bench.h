// qconvc bench: what to time, and what came of it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "tools/bench_timing.h"
#include "tools/peaks.h"

namespace qconv::tools {

/// A layer of the table or layer file, with the input size to time it at.
struct BenchRow {
    std::string name;
    qconv_layer_config config;
    int64_t batch = 1, width = 1;
};

/// One row timed with one kernel.
struct BenchResult {
    std::string name, kernel, target;
    qconv_path path = QCONV_PATH_F32F32;
    double planes = 1; // b1b1: products of bit-planes; a MAC of the layer costs that many of the peak's
    double macs = 0;
    Timing timing;
    size_t outputs_checked = 0, packed_bytes = 0;
    double compared = 0; // this time over that with the other kernel, where two are compared
    std::string other;   // that kernel
    std::string error;   // why the row was not timed

    double gmacs() const { return timing.median > 0 ? macs / timing.median / 1e3 : 0; }
    /// Percent of a peak in MACs per second.
    double percent_of(double peak) const { return peak > 0 ? 100 * gmacs() * 1e9 * planes / peak : 0; }
};

struct BenchReport {
    std::vector<BenchResult> results;
    std::string compared; // "generic / specialised", "chosen / best"
    int threads = 1, cpu = -1;
    double overhead_us = 0; // of a forward call beyond its kernel
    bool complete = true;
};

/// A header, then a line per row, then the means, worst rows and peaks.
void print_bench_header(const BenchReport &report, const PeakMeter &peaks);
void print_bench_row(const BenchResult &result, const PeakMeter &peaks, int threads);
void print_bench_summary(const BenchReport &report, const PeakMeter &peaks);

/// The same as one JSON object.
nlohmann::json bench_json(const BenchReport &report, const PeakMeter &peaks);
nlohmann::json bench_row_json(const BenchResult &result, const PeakMeter &peaks, int threads);

} // namespace qconv::tools
