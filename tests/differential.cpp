// Differential fuzzing: random layers, and on each of them every generic kernel that serves it, of every target this
// CPU runs, against the oracle, between guard pages. Each case is replayed by its seed and number.
//
//     qconv_differential [--seed S] [--first N] [--cases N] [--seconds N] [--threads N]
//
// Every minute it prints the cases so far and the memory it holds: left to run, it is the soak test.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "runtime/select.h"
#include "support/layer_case.h"
#include "support/training.h"

namespace qconv::test {
namespace {

struct Options {
    uint64_t seed = 1;
    int64_t first = 0, cases = INT64_MAX;
    double seconds = 1e18;
    int threads = 1;
};

[[noreturn]] void usage(const char *program) {
    std::fprintf(stderr, "usage: %s [--seed S] [--first N] [--cases N] [--seconds N] [--threads N]\n", program);
    std::exit(2);
}

Options parse(int argc, char **argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        char *end = nullptr;
        const long long value = std::strtoll(argv[i + 1], &end, 10);
        if (*end != '\0' || value < 0) usage(argv[0]);
        if (name == "--seed") {
            options.seed = static_cast<uint64_t>(value);
        } else if (name == "--first") {
            options.first = value;
        } else if (name == "--cases") {
            options.cases = value;
        } else if (name == "--seconds") {
            options.seconds = static_cast<double>(value);
        } else if (name == "--threads") {
            options.threads = static_cast<int>(value);
        } else {
            usage(argv[0]);
        }
    }
    if (argc % 2 == 0) usage(argv[0]);
    return options;
}

/// Bytes of physical memory this process holds.
int64_t resident_bytes() {
    int64_t pages = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident;
    return resident * 4096;
}

/// Sizes that are often at a boundary of words and blocks.
int64_t size(int64_t most, Random &random) {
    constexpr int64_t near[] = {1, 2, 3, 4, 8, 16, 32, 48, 64, 96, 128, 256};
    const int64_t at =
        random.below(2) == 0 ? near[random.below(std::size(near))] + random.below(3) - 1 : 1 + random.below(most);
    return std::clamp<int64_t>(at, 1, most);
}

Shape random_shape(Random &random) {
    Shape s{};
    s.groups = random.below(3) == 0 ? size(16, random) : 1;
    s.in = s.groups * size(s.groups > 1 ? 12 : 140, random);
    s.out = s.groups * size(s.groups > 1 ? 12 : 80, random);
    s.kernel = size(random.below(4) == 0 ? 40 : 7, random);
    s.stride = random.below(2) == 0 ? 1 : size(7, random);
    s.dilation = random.below(2) == 0 ? 1 : size(9, random);
    const int64_t span = s.dilation * (s.kernel - 1);
    s.left = random.below(2) == 0 ? 0 : random.below(span + 4);
    s.right = random.below(2) == 0 ? 0 : random.below(span + 4);
    s.batch = 1 + random.below(3);
    s.width = std::max<int64_t>(size(300, random), span + 1 - s.left - s.right);
    s.reason = "random";
    // Small enough for the oracle.
    while (s.batch * s.out * (s.in / s.groups) * s.kernel * s.width > 3'000'000 && s.width > span + 1)
        s.width = std::max(span + 1, s.width / 2);
    return s;
}

float random_pad(const Pair &pair, Random &random) {
    constexpr float pads[] = {-1, 0, 1, 0.5f, -0.3f, 7};
    return pair.kind == QCONV_LAYER_CONV1D ? 0 : pads[random.below(std::size(pads))];
}

class Differential {
public:
    explicit Differential(const Options &options) : options_(options) {}

    /// Returns "" or the first failure.
    std::string run_case(int64_t number) {
        Random random(options_.seed, static_cast<uint64_t>(number));
        const Shape shape = random_shape(random);
        const bool training = random.below(2) == 0;
        const std::vector<Pair> &all = training ? training_pairs() : pairs();
        const Pair &pair = all[static_cast<size_t>(random.below(static_cast<int64_t>(all.size())))];
        const float pad = random_pad(pair, random);
        qconv_set_num_threads(1 + static_cast<int>(random.below(options_.threads)));
        const uint64_t stream = options_.seed * 1'000'003 + static_cast<uint64_t>(number);
        return training ? run_training(shape, pair, pad, stream, random)
                        : run_forward(shape, pair, pad, stream, random);
    }
    int64_t runs() const { return runs_; }

private:
    template <typename Use>
    static void for_each_kernel(qconv_op op, const qconv_layer_config &config, const Use &use) {
        const qconv_kernel *kernel = nullptr;
        for (size_t i = 0; (kernel = qconv_kernel_at(i)) != nullptr; ++i) {
            if (kernel->op != op || kernel->in_channels != 0 || !qconv_cpu_supports(kernel->target, nullptr)) continue;
            if (std::isfinite(estimate_cost(*kernel, config))) use(kernel);
        }
    }

    std::string run_forward(const Shape &shape, const Pair &pair, float pad, uint64_t stream, Random &random) {
        LayerCase c(shape, pair, pad, Data::Random, stream);
        std::string failure;
        for_each_kernel(QCONV_OP_FORWARD, c.config(), [&](const qconv_kernel *kernel) {
            if (!failure.empty()) return;
            std::string error;
            const LayerPtr layer = c.create(kernel, &error);
            const auto edge = random.below(2) == 0 ? GuardedArena::Edge::End : GuardedArena::Edge::Start;
            if (layer != nullptr) error = forward_.forward(layer.get(), c, edge, random.below(2) == 0);
            if (error.empty()) error = c.check(kernel->path, forward_.y());
            ++runs_;
            if (!error.empty()) failure = describe(*kernel) + c.describe() + ": " + error;
        });
        return failure;
    }

    std::string run_training(const Shape &shape, const Pair &pair, float pad, uint64_t stream, Random &random) {
        constexpr float thresholds[] = {1, NAN, 0.25f};
        const float threshold = thresholds[random.below(3)];
        const Numbers numbers = random.below(2) == 0 ? Numbers::Integer : Numbers::Real;
        TrainingCase c(shape, pair, threshold, pad, numbers, stream);
        c.set_directions(QCONV_TRAINING);
        std::string failure;
        const auto step = [&](const qconv_kernel *input, const qconv_kernel *weight) {
            if (!failure.empty()) return;
            std::string error;
            const LayerPtr layer = c.create(input, weight, &error);
            StepOptions options;
            options.edge = random.below(2) == 0 ? GuardedArena::Edge::End : GuardedArena::Edge::Start;
            options.own_workspace = random.below(2) == 0;
            if (layer != nullptr) {
                error = training_.step(layer.get(), c.config(), c.data(), shape.batch, shape.width, options);
            }
            if (error.empty()) error = c.check(training_.gradients());
            ++runs_;
            if (!error.empty()) failure = describe(input != nullptr ? *input : *weight) + c.describe() + ": " + error;
        };
        qconv_layer_config config = c.config();
        config.directions = QCONV_TRAINING;
        for_each_kernel(QCONV_OP_GRAD_INPUT, config, [&](const qconv_kernel *kernel) { step(kernel, nullptr); });
        for_each_kernel(QCONV_OP_GRAD_WEIGHT, config, [&](const qconv_kernel *kernel) { step(nullptr, kernel); });
        return failure;
    }

    static std::string describe(const qconv_kernel &kernel) {
        return std::string(kernel.name) + " on " + kernel.target + ": ";
    }

    Options options_;
    int64_t runs_ = 0;
    GuardedRun forward_;
    GuardedTraining training_;
};

int run(const Options &options) {
    if (qconv_register_generic_kernels() != QCONV_OK) return 1;
    Differential differential(options);
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    double next_report = 60;
    int64_t done = 0;
    for (; done < options.cases && elapsed() < options.seconds; ++done) {
        const std::string failure = differential.run_case(options.first + done);
        if (!failure.empty()) {
            std::fprintf(stderr, "case %lld of seed %llu: %s\n", static_cast<long long>(options.first + done),
                         static_cast<unsigned long long>(options.seed), failure.c_str());
            return 1;
        }
        if (elapsed() < next_report) continue;
        next_report += 60;
        std::printf("%6.0f s  %8lld layers  %9lld runs of kernels  %7.1f MB resident\n", elapsed(),
                    static_cast<long long>(done + 1), static_cast<long long>(differential.runs()),
                    static_cast<double>(resident_bytes()) / 1e6);
        std::fflush(stdout);
    }
    std::printf("seed %llu: %lld layers, %lld runs of kernels, all agree with the oracle, %.0f s\n",
                static_cast<unsigned long long>(options.seed), static_cast<long long>(done),
                static_cast<long long>(differential.runs()), elapsed());
    return 0;
}

} // namespace
} // namespace qconv::test

int main(int argc, char **argv) {
    return qconv::test::run(qconv::test::parse(argc, argv));
}
