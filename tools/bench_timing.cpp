#include "tools/bench_timing.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <string>

#include "tests/support/reference.h"
#include "tools/errors.h"
#include "tools/files.h"

namespace qconv::tools {
namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void check(qconv_status status, const char *what) {
    if (status == QCONV_OK) return;
    const bool input = status == QCONV_INVALID_ARGUMENT || status == QCONV_NO_KERNEL;
    throw Error(input ? kExitInput : kExitEnvironment, std::string(what) + ": " + qconv_last_error());
}

// SplitMix64: even the largest tensors of a workload table are filled in a fraction of a second.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // Uniform in [-1.5, 1.5): both signs, and both ends of DoReFa's clamp.
    std::vector<float> tensor(int64_t size) {
        std::vector<float> values(static_cast<size_t>(size));
        for (float &v : values)
            v = static_cast<float>(next() >> 40) * (3.0f / (1 << 24)) - 1.5f;
        return values;
    }

private:
    uint64_t state_;
};

constexpr std::align_val_t kWorkspaceAlignment{64};

} // namespace

int pin_to_one_cpu() {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return -1;
    int last = -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed)) last = cpu;
    if (last < 0) return -1;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    return sched_setaffinity(0, sizeof(one), &one) == 0 ? last : -1;
}

int64_t sample_calls(const std::function<void()> &call, double seconds, int least_samples,
                     std::vector<double> &samples) {
    // Reading the clock costs some 30 ns: a batch of 20 microseconds makes that invisible.
    constexpr double kBatchSeconds = 20e-6;
    call();
    double start = now();
    call();
    const double first = std::max(now() - start, 1e-9);
    const int64_t per_batch = std::max<int64_t>(1, static_cast<int64_t>(kBatchSeconds / first));
    int64_t calls = 0;
    const double end = now() + seconds;
    for (int taken = 0; (taken < least_samples || now() < end) && !interrupted(); taken++) {
        start = now();
        for (int64_t i = 0; i < per_batch; i++)
            call();
        samples.push_back((now() - start) * 1e6 / static_cast<double>(per_batch));
        calls += per_batch;
    }
    return calls;
}

Timing summarize_samples(std::vector<double> samples, int64_t calls) {
    Timing t;
    if (samples.empty()) return t;
    std::sort(samples.begin(), samples.end());
    t.median = samples[samples.size() / 2];
    t.least = samples.front();
    t.spread = samples[(samples.size() - 1) * 9 / 10] / t.median;
    t.calls = calls;
    return t;
}

TimedLayer::TimedLayer(const qconv_layer_config &config, int64_t batch, int64_t width)
    : config_(config),
      batch_(batch),
      width_(width),
      workspace_(nullptr, [](void *p) { ::operator delete(p, kWorkspaceAlignment); }) {
    check(qconv_layer_config_check(&config_), "layer");
    Random random(1);
    const int64_t terms = config_.in_channels / config_.groups * config_.kernel_size;
    weight_ = random.tensor(config_.out_channels * terms);
    if (config_.kind == QCONV_LAYER_CONV1D) bias_ = random.tensor(config_.out_channels);
    qconv_layer *layer = nullptr;
    check(qconv_layer_create(&config_, weight_.data(), bias_.empty() ? nullptr : bias_.data(), &layer), "layer");
    layer_.reset(layer);
    check(qconv_layer_width_out(layer, width_, &width_out_), "layer");
    check(qconv_layer_workspace_size(layer, batch_, width_, &workspace_bytes_), "workspace");
    workspace_.reset(::operator new(std::max<size_t>(workspace_bytes_, 1), kWorkspaceAlignment));
    x_ = random.tensor(batch_ * config_.in_channels * width_);
    y_.assign(static_cast<size_t>(batch_ * config_.out_channels * width_out_), 0.0f);
}

void TimedLayer::forward() {
    check(qconv_layer_forward(layer_.get(), x_.data(), batch_, width_, y_.data(), workspace_.get(), workspace_bytes_),
          "forward");
}

double TimedLayer::macs() const {
    return static_cast<double>(batch_) * static_cast<double>(config_.out_channels) *
           static_cast<double>(config_.in_channels / config_.groups) * static_cast<double>(config_.kernel_size) *
           static_cast<double>(width_out_);
}

size_t TimedLayer::verify() {
    std::fill(y_.begin(), y_.end(), std::nanf(""));
    forward();
    // Columns: as many as a second of the oracle's loops allow, from 3 to 12.
    const double per_column = macs() / static_cast<double>(width_out_);
    const int64_t count = std::clamp<int64_t>(static_cast<int64_t>(3e8 / per_column), 3, 12);
    std::vector<int64_t> columns = {0, width_out_ - 1, width_out_ / 2, 1, width_out_ - 2};
    for (Random random(2); static_cast<int64_t>(columns.size()) < 12;)
        columns.push_back(static_cast<int64_t>(random.next() % static_cast<uint64_t>(width_out_)));
    columns.resize(static_cast<size_t>(count));
    std::erase_if(columns, [&](int64_t c) { return c < 0 || c >= width_out_; });

    const reference::Expected expected =
        reference::expect(config_, kernel().path, x_.data(), batch_, width_, weight_.data(),
                          bias_.empty() ? nullptr : bias_.data(), columns);
    std::vector<float> sampled;
    sampled.reserve(expected.y.size());
    for (int64_t row = 0; row < batch_ * config_.out_channels; row++)
        for (const int64_t column : columns)
            sampled.push_back(y_[static_cast<size_t>(row * width_out_ + column)]);
    const int64_t wrong = reference::first_mismatch(expected, sampled.data());
    if (wrong >= 0) {
        const int64_t row = wrong / static_cast<int64_t>(columns.size());
        const int64_t column = columns[static_cast<size_t>(wrong) % columns.size()];
        throw Error(kExitCheckFailed,
                    fmt::format("wrong result: kernel {} ({}) gives y[{}, {}, {}] = {}, the oracle {} within {}",
                                kernel().name, kernel().target, row / config_.out_channels, row % config_.out_channels,
                                column, sampled[static_cast<size_t>(wrong)], expected.y[static_cast<size_t>(wrong)],
                                expected.tolerance[static_cast<size_t>(wrong)]));
    }
    return sampled.size();
}

double measure_call_overhead(const qconv_layer_config &config, const qconv_kernel &kernel) {
    static qconv_kernel idle; // registered rows must last as long as the process
    if (!idle.name) {
        idle = kernel;
        idle.name = "bench_idle";
        idle.call = [](void **) { return 0; };
        check(qconv_register_kernels(&idle, 1), "bench_idle");
    }
    qconv_layer_config forced = config;
    forced.kernel = idle.name;
    TimedLayer layer(forced, 1, config.dilation * config.kernel_size);
    std::vector<double> samples;
    sample_calls([&] { layer.forward(); }, 0.05, 100, samples);
    return summarize_samples(samples, 0).median;
}

} // namespace qconv::tools
