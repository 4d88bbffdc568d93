#include "tools/tuned.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <tuple>

#include "runtime/config.h"
#include "runtime/select.h"
#include "tools/cpu_model.h"
#include "tools/layer_json.h"
#include "tools/tune_database.h"
#include "tools/tune_judge.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;

/// What a kernel's suitability depends on, but for sizes and padding.
std::string kind_of(const LayerSpec &layer, qconv_op op) {
    nlohmann::ordered_json json = layer_json(layer);
    for (const char *key : {"name", "width", "batch", "padding", "bias"})
        json.erase(key);
    // Only grad_input knows the threshold, and it has no padding.
    json.erase(op == QCONV_OP_GRAD_INPUT ? "pad_value" : "gradient_cancellation_threshold");
    return json.dump();
}

/// How far two inputs are apart, as a ratio of widths and of batches; 0: the same.
double distance(const LayerSpec &a, const LayerSpec &b) {
    const auto ratio = [](int64_t x, int64_t y) {
        return std::abs(
            std::log(static_cast<double>(std::max<int64_t>(x, 1)) / static_cast<double>(std::max<int64_t>(y, 1))));
    };
    // A layer file without an estimate is as near to one record as to another.
    const double width = a.width > 0 ? ratio(a.width, b.width) : 0;
    return width + (a.batch > 0 ? ratio(a.batch, b.batch) : ratio(1, b.batch));
}

} // namespace

fs::path weights_folder(const fs::path &records) {
    return records.string() + ".weights";
}

void merge_weights(const fs::path &database, const std::vector<std::string> &inputs) {
    for (const std::string &input : inputs) {
        std::error_code none;
        for (const fs::directory_entry &entry : fs::directory_iterator(weights_folder(input), none)) {
            fs::create_directories(weights_folder(database));
            // Named by their contents: what is there already is the same.
            fs::copy_file(entry.path(), weights_folder(database) / entry.path().filename(),
                          fs::copy_options::skip_existing);
        }
    }
}

KernelRow with_weights(KernelRow row, const fs::path &folder) {
    const auto weights = row.autoscheduler.params.find("weights_path");
    if (weights != row.autoscheduler.params.end())
        weights->second = fs::absolute(folder / fs::path(weights->second).filename()).string();
    return row;
}

TunedKernels::TunedKernels(const fs::path &file) : file_(file) {
    for (TuneRecord &record : read_records(file)) {
        const std::string reason = stale_reason(record);
        if (reason.empty()) {
            records_.push_back(std::move(record));
            continue;
        }
        if (stale_++ == 0) reason_ = reason;
    }
}

TunedChoice TunedKernels::choose(const LayerSpec &layer, qconv_op op, const TargetInfo &target) const {
    struct Group {
        std::vector<const TuneRecord *> records;
        double distance;
        bool other_cpu;
    };
    const std::string kind = kind_of(layer, op), cpu = cpu_model();
    std::map<std::pair<std::string, std::string>, Group> groups; // by unit and CPU
    for (const TuneRecord &record : records_) {
        if (record.text("target") != target.name || record.op() != op || record.kind() == "estimate") continue;
        const LayerSpec other = record.layer();
        if (kind_of(other, op) != kind) continue;
        // Failures to compile have no CPU; they take part in no choice.
        if (!record.ok()) continue;
        const std::string measured = record.json["machine"].value("cpu", "");
        Group &group = groups[{record.unit(), measured}];
        group.records.push_back(&record);
        group.distance = distance(layer, other);
        group.other_cpu = measured != cpu;
    }
    const Group *nearest = nullptr;
    for (const auto &[key, group] : groups) {
        const auto rank = [](const Group &g) { return std::tuple(g.other_cpu, g.distance); };
        if (!nearest || rank(group) < rank(*nearest)) nearest = &group;
    }
    TunedChoice choice;
    if (!nearest) return choice;
    const Judgement judgement = judge(nearest->records);
    if (!judgement.best) return choice;
    const TuneRecord &best = *judgement.best;
    const LayerSpec measured = best.layer();
    choice.manifest = {{"record", best.id()},
                       {"strategy", best.strategy()},
                       {"gain_over_default", judgement.gain},
                       {"confirmed", judgement.confirmed},
                       {"time_us", best.time()},
                       {"cpu", best.json["machine"].value("cpu", "")},
                       {"measured", best.text("time")},
                       {"width", measured.width},
                       {"batch", measured.batch}};
    if (schedule_changed(best)) choice.manifest["note"] = "our schedules have changed since: the gain may differ";
    if (best.strategy() == "default") return choice;
    KernelRow row = with_weights(best.row(), weights_folder(file_));
    const auto weights = row.autoscheduler.params.find("weights_path");
    if (weights != row.autoscheduler.params.end() && !fs::exists(weights->second)) {
        choice.manifest["note"] = fmt::format("not used: its cost model {} is missing", weights->second);
        return choice;
    }
    row.targets = {target.name};
    row.name += "_t" + best.id().substr(0, 8);
    qconv_kernel kernel = row.layout;
    kernel.name = row.name.c_str();
    kernel.target = target.name.c_str();
    if (!std::isfinite(estimate_cost(kernel, layer.config))) {
        choice.manifest["note"] = "not used: its kernel does not serve this layer";
        return choice;
    }
    choice.sizes = {measured.width, width_out(measured.config, measured.width), measured.batch};
    choice.row = std::move(row);
    return choice;
}

} // namespace qconv::tools
