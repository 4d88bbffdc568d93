// The rows of a bench run, one after the other, or one request at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/bench.h"
#include "tools/bench_kernels.h"

namespace qconv::tools {

struct BenchSettings {
    std::vector<std::string> kinds; // "generic", "specialised": one, or two to compare
    double seconds = 0.2;           // of timing a row
    int repeats = 5;                // turns that make them up
    bool every_kernel = false, json = false;
};

/// A quantizer as the command line names it, in the form that timing takes: progressive_sign alone has two. In training
/// it is a clamp (scale 0, where training begins), in inference sign.
qconv_quantizer timed_quantizer(const std::string &text, const BenchWork &work);

/// A row set up with its data, and checked against the oracle. Throws Error.
struct CheckedLayer {
    CheckedLayer(const BenchRow &row, const BenchWork &work, const KernelChoice &kernels);

    std::unique_ptr<TimedLayer> layer;
    size_t outputs_checked;
};

/// Times the layer of a row, and turn by turn with it `other` (may be null), with which it is compared. Throws
/// Interrupted.
BenchResult time_layer(const BenchRow &row, const CheckedLayer &timed, const CheckedLayer *other,
                       const BenchSettings &settings, const BenchWork &work, PeakMeter &peaks);

/// Times every row and adds the results to the report, printed as they come unless JSON is wanted. A row that fails is
/// a result with an error; an interrupt ends the run early.
void bench_rows(const std::vector<BenchRow> &rows, const BenchSettings &settings, const BenchKernels &kernels,
                BenchReport &report, PeakMeter &peaks);

/// One request a line, {"row": number, "seconds": 0.1}; one answer a line. The layer of the last row is kept, so that a
/// caller can interleave turns of its own.
void serve_rows(const std::vector<BenchRow> &rows, const std::string &kind, const BenchKernels &kernels,
                const BenchReport &report, PeakMeter &peaks);

} // namespace qconv::tools
