// Classifies recordings with a network trained in PyTorch, on kernels that qconvc compiled for its layers, and compares
// every answer with what the network gave there. Exits 1 if one prediction differs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "layers_avx2.h"
#include "layers_avx512.h"
#include "layers_avx512_zen4.h"
#include "layers_sse41.h"
#include "network.h"
#include "npy.h"

namespace {

/// The compiled targets, the most demanding first.
struct Target {
    const char *name;
    qconv_status (*register_kernels)();
};
const Target kTargets[] = {
    {"avx512_zen4", layers_avx512_zen4_register},
    {"avx512", layers_avx512_register},
    {"avx2", layers_avx2_register},
    {"sse41", layers_sse41_register},
};

// Rounding of float sums in another order; no activation of these recordings is near a quantizer's step.
constexpr double kLogitTolerance = 1e-4;

struct Recordings {
    std::vector<float> values, frames, speakers, logits, predictions;

    explicit Recordings(const std::filesystem::path &folder)
        : values(read_npy(folder / "recordings.npy")),
          frames(read_npy(folder / "frames.npy")),
          speakers(read_npy(folder / "speakers.npy")),
          logits(read_npy(folder / "logits.npy")),
          predictions(read_npy(folder / "predictions.npy")) {}

    size_t count() const { return frames.size(); }
};

struct Outcome {
    size_t correct = 0, same = 0;
    double largest_difference = 0; // of a logit from the one given
    double median_us = 0;          // a recording
};

Outcome classify_all(Network &network, const Recordings &recordings) {
    Outcome outcome;
    std::vector<double> times;
    // The first round warms caches and grows the buffers; the second is timed.
    for (const bool timed : {false, true}) {
        const float *recording = recordings.values.data();
        for (size_t i = 0; i < recordings.count(); i++) {
            const auto frames = static_cast<int64_t>(recordings.frames[i]);
            const auto start = std::chrono::steady_clock::now();
            const auto logits = network.classify(recording, frames);
            const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
            recording += Network::kCoefficients * frames;
            if (!timed) continue;
            times.push_back(took.count());
            const auto best = static_cast<float>(std::max_element(logits.begin(), logits.end()) - logits.begin());
            outcome.correct += best == recordings.speakers[i];
            outcome.same += best == recordings.predictions[i];
            for (size_t s = 0; s < logits.size(); s++) {
                const float theirs = recordings.logits[i * logits.size() + s];
                const double difference = std::abs(double{logits[s]} - double{theirs});
                // A NaN must not slip through the maximum.
                outcome.largest_difference =
                    std::isnan(difference) ? HUGE_VAL : std::max(outcome.largest_difference, difference);
            }
        }
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    outcome.median_us = times[times.size() / 2];
    return outcome;
}

void print_layers(const Network &network) {
    constexpr int kNameWidth = 44;
    std::printf("%-7s %-11s %-*s %-12s %8s %9s\n", "layer", "arithmetic", kNameWidth, "kernel", "ISA", "weights",
                "as float");
    for (const Block &block : network.blocks()) {
        const qconv_kernel &kernel = block.conv.kernel();
        std::printf("%-7s %-11s %-*s %-12s %6zu B %7zu B\n", block.name.c_str(), qconv_path_name(kernel.path),
                    kNameWidth, kernel.name, kernel.target, block.conv.packed_bytes(), block.float_bytes);
    }
}

int run(const std::filesystem::path &folder) {
    const Recordings recordings(folder / "data");
    qconv_set_num_threads(1); // a recording is microseconds of work
    std::vector<const Target *> usable;
    for (const Target &target : kTargets) {
        const char *missing = "";
        if (qconv_cpu_supports(target.name, &missing)) {
            if (target.register_kernels() != QCONV_OK) throw std::runtime_error(qconv_last_error());
            usable.push_back(&target);
        } else {
            std::printf("%s: not on this CPU, it lacks %s\n", target.name, missing);
        }
    }
    if (usable.empty()) throw std::runtime_error("this CPU runs none of the compiled targets");

    Network network(folder / "weights", nullptr);
    print_layers(network);

    std::printf("\n%-12s %10s %18s %22s %20s\n", "ISA", "accuracy", "same prediction", "largest difference",
                "us a recording");
    bool good = true;
    for (const Target *target : usable) {
        const std::string kernel = std::string("@") + target->name;
        Network forced(folder / "weights", kernel.c_str());
        const Outcome outcome = classify_all(forced, recordings);
        const size_t count = recordings.count();
        const std::string same = std::to_string(outcome.same) + " of " + std::to_string(count);
        std::printf("%-12s %9.2f%% %18s %22.1e %20.1f\n", target->name,
                    100.0 * static_cast<double>(outcome.correct) / static_cast<double>(count), same.c_str(),
                    outcome.largest_difference, outcome.median_us);
        good = good && outcome.same == count && outcome.largest_difference <= kLogitTolerance;
    }
    std::printf("\n%s\n", good ? "Every prediction is PyTorch's." : "FAILED: predictions differ from PyTorch's.");
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: classify FOLDER   (with weights/ and data/)\n");
        return 2;
    }
    try {
        return run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "classify: %s\n", error.what());
        return 2;
    }
}
