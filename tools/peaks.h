// What one core of this machine can do at best, measured by assembly loops that only compute: no loads, no stores,
// enough independent accumulators. A kernel's rate is meaningful only beside a peak taken in the same process at the
// same time.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::tools {

/// The three loops, named by the work they do.
enum class PeakKind : int {
    Popcount = 0, // binary MACs: xor, popcount, add
    Dot = 1,      // integer MACs: 8-bit or 16-bit dot products into int32
    Fma = 2,      // float MACs
    Kinds = 3
};

/// "popcount", "dot", "fma".
const char *peak_name(PeakKind kind);
/// The instructions of one step of the loop for a target ("sse41", "avx2", "avx512", "avx512_zen4").
const char *peak_instructions(PeakKind kind, const std::string &target);
/// The same as assembly text in AT&T syntax, one pass through the loop's body, and the MACs of it.
struct PeakBody {
    std::string assembly;
    double macs = 0;
};
PeakBody peak_body(PeakKind kind, const std::string &target);
/// The loop that bounds a path.
PeakKind peak_kind(qconv_path path);

/// Runs one loop for about `seconds` and returns MACs per second. The CPU must support the target.
double measure_peak(PeakKind kind, const std::string &target, double seconds);

/// Samples of all three loops of one target, collected over the length of a run.
class PeakMeter {
public:
    explicit PeakMeter(std::string target) : target_(std::move(target)) {}

    /// Adds one sample of every kind (about half a millisecond each).
    void sample();
    /// Adds one sample of one kind.
    void sample(PeakKind kind);

    const std::string &target() const { return target_; }
    size_t samples(PeakKind kind) const { return of(kind).size(); }
    /// MACs per second; 0 without samples.
    double median(PeakKind kind) const;
    double best(PeakKind kind) const;

private:
    const std::vector<double> &of(PeakKind kind) const { return samples_[static_cast<size_t>(kind)]; }

    std::string target_;
    std::array<std::vector<double>, static_cast<size_t>(PeakKind::Kinds)> samples_;
};

} // namespace qconv::tools
