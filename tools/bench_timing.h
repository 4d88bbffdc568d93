// Timing of one layer on this machine: data, a check against the oracle, and calls in batches.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "tools/layer_run.h"

namespace qconv::tools {

/// Microseconds of one call. A sample is a batch of calls long enough for the clock; short layers take many calls each.
struct Timing {
    double median = 0, least = 0;
    double spread = 0; // 90th percentile over median
    int64_t calls = 0;
};
/// Appends samples of `call` to `samples` for `seconds`, at least `least_samples`; returns the calls made. The first
/// call, which warms caches, is not counted. Ends early when interrupted() (tools/files.h).
int64_t sample_calls(const std::function<void()> &call, double seconds, int least_samples,
                     std::vector<double> &samples);
Timing summarize_samples(std::vector<double> samples, int64_t calls);

/// Binds the calling thread to the last CPU it may use, which serves fewer interrupts than the first. Returns its
/// number.
int pin_to_one_cpu();

/// What one timed call does: the ops of one direction, or of a training step.
///   forward                  qconv_layer_forward
///   grad_input, grad_weight  qconv_layer_backward with that output (grad_weight: and grad_bias)
///   all three                a step: forward_training, backward with every gradient, set_weights
using BenchWork = std::vector<qconv_op>;
inline bool is_step(const BenchWork &work) {
    return work.size() > 1;
}
/// Each direction, then the step.
std::vector<BenchWork> bench_works();
/// "forward", "grad-input", "grad-weight", "step".
std::string work_name(const BenchWork &work);

/// Kernels to force, by op; those left out are the runtime's choice.
using KernelChoice = std::map<qconv_op, std::string>;

/// One layer with random data and its buffers. Throws Error with qconv's text where a call fails.
class TimedLayer {
public:
    TimedLayer(const qconv_layer_config &config, int64_t batch, int64_t width, const BenchWork &work,
               const KernelChoice &kernels);

    /// Runs every op once and compares sampled values (edges, middle, some between) with the oracle. Returns the number
    /// of values compared; throws Error when one is out of tolerance. To be called before call().
    size_t verify();
    /// What is timed.
    void call();
    /// The part of a step that packs the new weights.
    void pack() { run_->set_weights(); }
    /// The rest of it: forward and backward.
    void propagate();

    const LayerRun &run() const { return *run_; }
    double macs() const { return run_->macs() * static_cast<double>(work_.size()); }

private:
    LayerData data_;
    BenchWork work_;
    Gradients gradients_;
    std::optional<LayerRun> run_;
};

/// The configuration that a row is created with: its directions, and the kernels forced. `kernels` must outlive it.
qconv_layer_config timed_config(qconv_layer_config config, const BenchWork &work, const KernelChoice &kernels);

/// Microseconds of a call beyond its kernels (and beyond packing weights, in a step): the call of a layer of minimal
/// width whose kernels return at once. `kernels` lends their layouts, one for each op of `work`. Registers kernels, so
/// call it after every choice among kernels is made.
double measure_call_overhead(const qconv_layer_config &config, const BenchWork &work,
                             const std::vector<const qconv_kernel *> &kernels);

} // namespace qconv::tools
