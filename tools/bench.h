// qconvc bench: what to time, and what came of it.
#pragma once

#include <cmath>
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

/// One op of what was timed.
struct BenchPart {
    qconv_op op = QCONV_OP_FORWARD;
    std::string kernel;
    qconv_path path = QCONV_PATH_F32F32;
    double planes = 1; // b1b1: products of bit-planes; a MAC of the layer costs that many of the peak's
    double macs = 0;
};

/// One row timed with one kernel an op.
struct BenchResult {
    std::string name, target;
    std::vector<BenchPart> parts;
    Timing timing;
    double packing = 0; // a step: microseconds of packing the weights anew, which `timing` includes
    size_t outputs_checked = 0, packed_bytes = 0;
    qconv_saved saved = QCONV_SAVES_NOTHING;
    size_t state_bytes = 0, input_bytes = 0; // of what backward needs from the forward pass, and of x
    double compared = 0;                     // this median time over that of the other layer, where two are compared
    double compared_least = 0;               // the same of least times
    std::string other;                       // that layer's kernels
    std::string error;                       // why the row was not timed

    double macs() const;
    double gmacs() const { return timing.median > 0 ? macs() / timing.median / 1e3 : 0; }
    /// Their names, "a + b + c".
    std::string kernels() const;
    /// Bytes that must be kept from forward to backward.
    size_t saved_bytes() const;
    double packing_percent() const { return timing.median > 0 ? 100 * packing / timing.median : 0; }
};

struct BenchReport {
    std::vector<BenchResult> results;
    BenchWork work;
    std::string compared; // "generic / specialised", "chosen / best"
    int threads = 1, cpu = -1;
    double overhead_us = 0; // of a call beyond its kernels
    bool complete = true;
};

/// A header, then a line per row, then the means, worst rows and peaks.
void print_bench_header(const BenchReport &report, const PeakMeter &peaks);
void print_bench_row(const BenchReport &report, const BenchResult &result, const PeakMeter &peaks);
void print_bench_summary(const BenchReport &report, const PeakMeter &peaks);

/// The peaks alone, a line each.
void print_peaks(const PeakMeter &peaks);

/// The same as one JSON object.
nlohmann::json bench_json(const BenchReport &report, const PeakMeter &peaks);
nlohmann::json bench_row_json(const BenchResult &result, const PeakMeter &peaks, int threads);
nlohmann::json peaks_json(const PeakMeter &peaks);

/// Of the median peaks of its parts.
double percent_of_peak(const BenchResult &result, const PeakMeter &peaks, int threads);

template <typename Value>
double geometric_mean(const std::vector<const BenchResult *> &results, const Value &value) {
    double sum = 0;
    for (const BenchResult *result : results)
        sum += std::log(value(*result));
    return results.empty() ? 0 : std::exp(sum / static_cast<double>(results.size()));
}

} // namespace qconv::tools
