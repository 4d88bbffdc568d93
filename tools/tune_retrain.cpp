#include "tools/tune_retrain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tools/files.h"
#include "tools/report.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;

/// New samples that are worth a training, and how often each is seen.
constexpr std::size_t kNewSamples = 12;
constexpr int kEpochs = 40;
/// The program also holds the shipped weights.
constexpr const char *kTrainer = "adams2019_retrain_cost_model";

/// The model learns ratios of times within one pipeline: the trainer wants eight schedules of it, and takes those of
/// another one under the same number for more of the same.
std::string pipeline_id(const TuneRecord &record) {
    KernelRow row = record.row();
    row.autoscheduler = {};
    return std::to_string(std::stoull(stable_hash(record.unit() + kernel_row_json(row)).substr(0, 7), nullptr, 16));
}

/// The weights that adams2019 goes by unless told otherwise, which lie in programs alone: the trainer wants a file to
/// start from. Their form describes itself: signature, two versions, the number of buffers, and for each the number of
/// dimensions, the extents, and floats. "" if they are not found.
std::string shipped_weights(const std::string &program) {
    constexpr std::uint32_t kSignature = 0x68776631;
    constexpr std::uint32_t kPlausible = 1024;
    const std::string signature(reinterpret_cast<const char *>(&kSignature), sizeof kSignature);
    for (auto at = program.find(signature); at != std::string::npos; at = program.find(signature, at + 1)) {
        std::size_t end = at + sizeof kSignature;
        const auto next = [&] {
            std::uint32_t word = kPlausible;
            if (end + sizeof word <= program.size()) std::memcpy(&word, program.data() + end, sizeof word);
            end += sizeof word;
            return word;
        };
        bool plausible = next() < kPlausible;
        plausible = next() < kPlausible && plausible;
        const std::uint32_t buffers = next();
        plausible = plausible && buffers > 0 && buffers < kPlausible;
        for (std::uint32_t i = 0; plausible && i < buffers; i++) {
            const std::uint32_t dimensions = next();
            plausible = dimensions < kPlausible;
            std::size_t floats = 1;
            for (std::uint32_t d = 0; plausible && d < dimensions; d++) {
                const std::uint32_t extent = next();
                plausible = extent < kPlausible;
                floats *= extent;
            }
            end += floats * sizeof(float);
            plausible = plausible && end <= program.size();
        }
        if (plausible) return program.substr(at, end - at);
    }
    return "";
}

/// Sorted; none if there is no such folder.
std::vector<std::string> samples_in(const fs::path &folder) {
    std::error_code none;
    std::vector<std::string> samples;
    for (const fs::directory_entry &entry : fs::directory_iterator(folder, none))
        if (entry.path().extension() == ".sample") samples.push_back(entry.path().string());
    std::sort(samples.begin(), samples.end());
    return samples;
}

} // namespace

CostModel::CostModel(const fs::path &records, const fs::path &weights, const TargetInfo &target, bool enabled)
    : samples_folder_(fs::absolute(records.string() + ".samples") / target.name),
      weights_folder_(weights),
      programs_(fs::read_symlink("/proc/self/exe").parent_path() / "../lib/qconv"),
      target_(target.name),
      enabled_(enabled) {
    // Installed, they lie with qconvc's other libraries; else in the wheel that it was built with.
    if (!fs::exists(programs_ / kTrainer)) programs_ = QCONV_HALIDE_PROGRAMS;
    if (!fs::exists(programs_ / kTrainer)) enabled_ = false;
    if (!enabled_) return;
    samples_ = samples_in(samples_folder_).size();
    std::error_code none;
    fs::file_time_type newest{};
    for (const fs::directory_entry &entry : fs::directory_iterator(weights_folder_, none)) {
        const std::string name = entry.path().filename().string();
        if (!name.starts_with(target_ + "-") || entry.last_write_time() < newest) continue;
        newest = entry.last_write_time();
        weights_ = name;
    }
    if (!weights_.empty()) trained_on_ = samples_ - samples_ % kNewSamples;
}

void CostModel::add_sample(const Trial &trial, const BuildSettings &settings) {
    const TuneRecord record{trial.record};
    const fs::path features = settings.folder / (record.id() + ".featurization");
    if (!enabled_ || !record.ok() || !fs::exists(features)) return;
    fs::create_directories(samples_folder_);
    const fs::path sample = samples_folder_ / (record.id() + ".sample");
    const int status = run_program(
        {(programs_ / "featurization_to_sample").string(), features.string(), fmt::format("{}", record.time() * 1e-6),
         pipeline_id(record), std::to_string(trial.candidate.seed), sample.string()},
        sample.string() + ".log");
    std::error_code none;
    fs::remove(sample.string() + ".log", none);
    if (status == 0) samples_++;
}

bool CostModel::retrain() {
    if (!enabled_ || samples_ < trained_on_ + kNewSamples) return false;
    trained_on_ = samples_;
    fs::create_directories(weights_folder_);
    const fs::path fresh = weights_folder_ / (target_ + ".training.weights"), log = fresh.string() + ".log";
    // The program reads the samples' names from standard input.
    const fs::path names = fresh.string() + ".names";
    write_atomically(names, join(samples_in(samples_folder_), "\n") + "\n");
    fs::path start = weights_folder_ / weights_;
    if (weights_.empty()) {
        start = weights_folder_ / "shipped.weights";
        write_atomically(start, shipped_weights(read_text(programs_ / kTrainer)));
    }
    const std::vector<std::string> arguments = {fmt::format("--epochs={}", kEpochs),
                                                "--rates=0.0001",
                                                "--num_cores=1",
                                                "--weights_out=" + fresh.string(),
                                                "--best_benchmark=" + fresh.string() + ".best",
                                                "--best_schedule=" + fresh.string() + ".schedule",
                                                "--initial_weights=" + start.string()};
    constexpr double kSeconds = 600;
    WorkerEnd end;
    run_limited(
        {{"the cost model", arguments, log, names}}, 1, {kSeconds, 0},
        [&](std::size_t, const WorkerEnd &how) { end = how; }, (programs_ / kTrainer).string());
    std::error_code none;
    for (const char *ending : {".log", ".best", ".schedule", ".names"})
        fs::remove(fresh.string() + ending, none);
    if (!end.well() || !fs::exists(fresh)) {
        report("qconvc: adams2019's cost model could not be retrained: the old one stays");
        enabled_ = false;
        return false;
    }
    // No pipeline had schedules enough.
    if (read_text(fresh) == read_text(start)) {
        fs::remove(fresh, none);
        return false;
    }
    weights_ = fmt::format("{}-{}.weights", target_, stable_hash(read_text(fresh)));
    fs::rename(fresh, weights_folder_ / weights_);
    return true;
}

} // namespace qconv::tools
