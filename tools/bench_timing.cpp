#include "tools/bench_timing.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>

#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/oracle.h"
#include "tools/random_data.h"

namespace qconv::tools {
namespace {

constexpr uint64_t kSeed = 1;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool does(const BenchWork &work, qconv_op op) {
    return std::find(work.begin(), work.end(), op) != work.end();
}

} // namespace

std::vector<BenchWork> bench_works() {
    std::vector<BenchWork> works;
    for (const qconv_op op : direction_ops())
        works.push_back({op});
    works.push_back(direction_ops());
    return works;
}

std::string work_name(const BenchWork &work) {
    return is_step(work) ? "step" : op_option(work.front());
}

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

qconv_layer_config timed_config(qconv_layer_config config, const BenchWork &work, const KernelChoice &kernels) {
    // A state comes from the forward pass.
    config.directions = QCONV_FORWARD;
    for (const qconv_op op : work)
        config.directions |= static_cast<uint32_t>(direction_of(op));
    for (const auto &[op, kernel] : kernels)
        forced_kernel(config, op) = kernel.c_str();
    return config;
}

TimedLayer::TimedLayer(const qconv_layer_config &config, int64_t batch, int64_t width, const BenchWork &work,
                       const KernelChoice &kernels)
    : work_(work) {
    const bool bias = config.kind == QCONV_LAYER_CONV1D;
    gradients_.input = does(work, QCONV_OP_GRAD_INPUT);
    gradients_.weight = does(work, QCONV_OP_GRAD_WEIGHT);
    gradients_.bias = gradients_.weight && bias;
    const qconv_layer_config directed = timed_config(config, work, kernels);
    check(qconv_layer_config_check(&directed), "layer");
    data_ = random_data(directed, batch, width, bias, kSeed);
    run_.emplace(directed, data_, "layer");
}

size_t TimedLayer::verify() {
    // A second of the loops checks all of a small layer, and a few columns of the largest.
    constexpr double kOracleMacs = 1e7;
    run_->spoil();
    if (gradients_.input || gradients_.weight) {
        run_->forward_training();
        run_->backward(gradients_);
    } else {
        run_->forward();
    }
    Oracle oracle(run_->config(), data_, kOracleMacs, kSeed);
    std::string problem = run_->workspace_problem();
    if (problem.empty()) problem = oracle.check_state(*run_);
    size_t checked = 0;
    for (const qconv_op op : work_) {
        const Verdict verdict = oracle.check(*run_, op);
        checked += static_cast<size_t>(verdict.checked);
        if (!problem.empty() || verdict.problem.empty()) continue;
        const qconv_kernel &kernel = run_->kernel(op);
        problem = fmt::format("kernel {} ({}): {}", kernel.name, kernel.target, verdict.problem);
    }
    if (!problem.empty()) throw Error(kExitCheckFailed, "wrong result: " + problem);
    return checked;
}

void TimedLayer::propagate() {
    if (does(work_, QCONV_OP_FORWARD)) run_->forward_training();
    run_->backward(gradients_);
}

void TimedLayer::call() {
    if (is_step(work_)) {
        propagate();
        pack();
    } else if (work_.front() == QCONV_OP_FORWARD) {
        run_->forward();
    } else {
        propagate();
    }
}

double measure_call_overhead(const qconv_layer_config &config, const BenchWork &work,
                             const std::vector<const qconv_kernel *> &kernels) {
    // Registered rows and their names must last as long as the process.
    static std::deque<std::string> names;
    static std::deque<qconv_kernel> rows;
    KernelChoice choice;
    for (const qconv_kernel *kernel : kernels) {
        qconv_kernel &idle = rows.emplace_back(*kernel);
        idle.name = names.emplace_back(fmt::format("bench_idle_{}_{}", qconv_op_name(kernel->op), rows.size())).c_str();
        idle.call = [](void **) { return 0; };
        check(qconv_register_kernels(&idle, 1), idle.name);
        choice[kernel->op] = idle.name;
    }
    TimedLayer layer(config, 1, config.dilation * config.kernel_size, work, choice);
    std::vector<double> samples;
    const auto call = [&] { is_step(work) ? layer.propagate() : layer.call(); };
    sample_calls(call, 0.05, 100, samples);
    return summarize_samples(samples, 0).median;
}

} // namespace qconv::tools
