// Timing of one layer on this machine: data, a check against the oracle, and calls in batches.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "qconv/qconv.h"

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

struct LayerDeleter {
    void operator()(qconv_layer *layer) const { qconv_layer_destroy(layer); }
};

/// One layer with random data and its buffers. Throws Error with qconv's text where a call fails.
class TimedLayer {
public:
    TimedLayer(const qconv_layer_config &config, int64_t batch, int64_t width);

    /// Runs the layer once and compares sampled output columns (edges, middle, some between; every channel) with the
    /// oracle. Returns the number of outputs compared; throws Error when one is out of tolerance.
    size_t verify();
    void forward();
    const qconv_kernel &kernel() const { return *qconv_layer_kernel(layer_.get(), QCONV_FORWARD); }
    const qconv_layer &layer() const { return *layer_; }
    size_t packed_bytes() const { return qconv_layer_packed_bytes(layer_.get()); }
    double macs() const;
    int64_t batch() const { return batch_; }
    int64_t width() const { return width_; }

private:
    std::unique_ptr<qconv_layer, LayerDeleter> layer_;
    qconv_layer_config config_;
    int64_t batch_, width_, width_out_ = 0;
    std::vector<float> x_, weight_, bias_, y_;
    std::unique_ptr<void, void (*)(void *)> workspace_;
    size_t workspace_bytes_ = 0;
};

/// Microseconds of a forward call beyond its kernel: the call of a layer whose kernel returns at once. `kernel` lends
/// its layout. Registers a kernel, so call it after every choice among kernels is made.
double measure_call_overhead(const qconv_layer_config &config, const qconv_kernel &kernel);

} // namespace qconv::tools
