// The program that a tuning run links with one candidate kernel and runs, here or elsewhere: it checks the kernel
// against the oracle, times it, and prints one line, "qconv-measure " and a JSON object. It takes no arguments and
// reads no file, so that one file is all that a runner must bring to another machine.
//
// The object:  cpu, governor, threads, macs, checked,
//              repeats_us [microseconds of a call], peak_gmacs [one after each repeat; none where no peak is known],
//              interrupted [involuntary switches during each repeat],
//     or       class ("wrong-result", "refused") and error.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "tests/support/reference.h"
#include "tools/bench_timing.h"
#include "tools/cpu_model.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/kernel_list.h"
#include "tools/layer_file.h"
#include "tools/measure/measure_peak.h"
#include "tools/oracle.h"
#include "tools/random_data.h"

// Linked in with the kernel.
extern "C" const char qconv_measure_request[];
extern "C" int qconv_candidate_argv(void **arguments);

namespace qconv::tools {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kSeed = 1;
constexpr double kOracleMacs = 4e6; // a fraction of a second of plain loops

std::string first_line(const char *path) {
    std::ifstream stream(path);
    std::string line;
    std::getline(stream, line);
    return line;
}

long involuntary_switches() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
}

/// One direction of the layer on the candidate.
class CandidateRun {
public:
    CandidateRun(const LayerSpec &layer, const KernelRow &row, qconv_op op) : op_(op) {
        qconv_layer_config config = layer.config;
        config.directions = direction_of(op);
        static const std::string name = row.name;
        static qconv_kernel kernel = row.layout;
        static const std::string target = row.targets.front();
        kernel.name = name.c_str();
        kernel.target = target.c_str();
        kernel.call = &qconv_candidate_argv;
        kernel.in_channels = config.in_channels;
        kernel.out_channels = config.out_channels;
        kernel.kernel_size = config.kernel_size;
        kernel.stride = config.stride;
        kernel.dilation = config.dilation;
        kernel.groups = config.groups;
        check(qconv_register_kernels(&kernel, 1), "candidate");
        const bool bias = config.kind == QCONV_LAYER_CONV1D;
        data_ = random_data(config, layer.batch, layer.width, bias, kSeed);
        run_.emplace(config, data_, "candidate");
        if (run_->saved() == QCONV_SAVES_STATE) {
            run_->set_state(reference::saved_state(config, data_.x.data(), data_.batch, data_.width));
        }
        gradients_.input = op == QCONV_OP_GRAD_INPUT;
        gradients_.weight = op == QCONV_OP_GRAD_WEIGHT;
        gradients_.bias = gradients_.weight && bias;
    }

    void call() {
        if (op_ == QCONV_OP_FORWARD) {
            run_->forward();
        } else {
            run_->backward(gradients_);
        }
    }

    /// Values compared; throws Error(kExitCheckFailed) if one is out of tolerance.
    int64_t verify() {
        Oracle oracle(run_->config(), data_, kOracleMacs, kSeed);
        call();
        std::string problem = run_->workspace_problem();
        const Verdict verdict = oracle.check(*run_, op_);
        if (problem.empty()) problem = verdict.problem;
        if (!problem.empty()) throw Error(kExitCheckFailed, problem);
        return verdict.checked;
    }

    const LayerRun &run() const { return *run_; }

private:
    qconv_op op_;
    LayerData data_;
    Gradients gradients_;
    std::optional<LayerRun> run_;
};

Json measure(const Json &request) {
    const LayerSpec layer = layer_from_json(request.at("layer"), "request");
    const KernelRow row = parse_kernel_row(request.at("kernel").dump());
    const int threads = request.at("threads");
    const int repeats = request.at("repeats");
    const double seconds = request.at("seconds");
    check(qconv_set_num_threads(threads), "threads");
    if (threads == 1) pin_to_one_cpu();
    CandidateRun candidate(layer, row, row.layout.op);
    Json result = {{"cpu", cpu_model()},
                   {"governor", first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")},
                   {"threads", threads},
                   {"macs", candidate.run().macs()},
                   {"checked", candidate.verify()},
                   {"repeats_us", Json::array()},
                   {"peak_gmacs", Json::array()},
                   {"interrupted", Json::array()}};
    for (int i = 0; i < repeats; i++) {
        std::vector<double> samples;
        const long before = involuntary_switches();
        sample_calls([&] { candidate.call(); }, seconds, 3, samples);
        result["repeats_us"].push_back(summarize_samples(std::move(samples), 0).median);
        result["interrupted"].push_back(involuntary_switches() - before);
        const double peak = peak_of_target(row.layout.path, row.targets.front());
        if (peak > 0) result["peak_gmacs"].push_back(peak * 1e-9);
    }
    return result;
}

} // namespace
} // namespace qconv::tools

int main() {
    using qconv::tools::Json;
    Json answer;
    int code = 0;
    try {
        answer = qconv::tools::measure(Json::parse(qconv_measure_request));
    } catch (const qconv::tools::Error &error) {
        code = error.code();
        const bool wrong = code == qconv::tools::kExitCheckFailed;
        answer = {{"class", wrong ? "wrong-result" : "refused"}, {"error", error.what()}};
    } catch (const std::exception &error) {
        code = qconv::tools::kExitEnvironment;
        answer = {{"class", "refused"}, {"error", error.what()}};
    }
    std::printf("qconv-measure %s\n", answer.dump().c_str());
    return code;
}
