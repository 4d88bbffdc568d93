#include "tools/tune_records.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/source_hashes.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;
using Json = TuneRecord::Json;

/// What is missing in a record, "" if nothing is. Records of another schema are only recognised, not checked.
std::string defect(const Json &json) {
    if (!json.is_object()) return "it is no object";
    if (!json.contains("schema") || !json["schema"].is_number_integer()) return "it has no schema";
    if (json["schema"] != kRecordSchema) return "";
    for (const char *key : {"kind", "id", "unit", "direction", "target", "halide_target", "strategy"}) {
        if (!json.contains(key) || !json[key].is_string()) return fmt::format("'{}' is missing or no text", key);
    }
    for (const char *key : {"layer", "kernel", "hashes"})
        if (!json.contains(key) || !json[key].is_object()) return fmt::format("'{}' is missing or no object", key);
    const bool result = json.contains("result") && json["result"].is_object();
    const bool failure = json.contains("failure") && json["failure"].is_object();
    if (result == failure) return "it must have either a result or a failure";
    if (result && !(json["result"].value("time_us", 0.0) > 0)) return "its time is not positive";
    return "";
}

} // namespace

std::string TuneRecord::failure() const {
    return json.contains("failure") && json["failure"].is_object() ? json["failure"].value("class", "") : "";
}

double TuneRecord::time() const {
    return ok() ? json["result"].value("time_us", 0.0) : std::numeric_limits<double>::infinity();
}

std::vector<double> TuneRecord::repeats() const {
    return ok() ? json["result"].value("repeats_us", std::vector<double>{}) : std::vector<double>{};
}

double TuneRecord::percent_of_peak() const {
    return ok() ? json["result"].value("percent_of_peak", 0.0) : 0;
}

double TuneRecord::gmacs() const {
    return ok() ? json["result"].value("gmacs", 0.0) : 0;
}

KernelRow TuneRecord::row() const {
    return parse_kernel_row(json.at("kernel").dump());
}

LayerSpec TuneRecord::layer() const {
    return layer_from_json(nlohmann::json(json.at("layer")), "record " + id());
}

qconv_op TuneRecord::op() const {
    return parse_op(text("direction"), "direction");
}

LoadedRecords load_records(const fs::path &file) {
    LoadedRecords loaded;
    std::error_code error;
    if (!fs::exists(file, error)) return loaded;
    const std::string text = read_text(file);
    std::size_t start = 0;
    for (int line = 1; start < text.size(); line++) {
        const std::size_t end = std::min(text.find('\n', start), text.size());
        const std::string_view one(text.data() + start, end - start);
        const bool complete = end < text.size();
        start = end + 1;
        if (one.empty()) continue;
        TuneRecord record;
        record.json = Json::parse(one, nullptr, false);
        std::string problem = record.json.is_discarded() ? "it is cut short or no JSON" : defect(record.json);
        if (problem.empty()) {
            loaded.records.push_back(std::move(record));
            continue;
        }
        loaded.damaged.push_back(fmt::format("{}:{}: skipped a damaged record{}: {}", file.string(), line,
                                             complete ? "" : " (the last line)", problem));
    }
    return loaded;
}

std::string algorithm_hash(const KernelRow &row) {
    const auto found = generator_hashes().find(row.generator);
    return found == generator_hashes().end() ? "" : found->second;
}

std::string schedule_hash(const TargetInfo &target) {
    // The files of an architecture begin with its name.
    const bool gpu =
        target.halide.find("cuda") != std::string::npos || target.halide.find("opencl") != std::string::npos;
    const std::string architecture = gpu ? "gpu" : target.halide.substr(0, target.halide.find('-'));
    std::string all;
    for (const auto &[name, hash] : schedule_file_hashes())
        if (name.starts_with(architecture)) all += hash;
    return stable_hash(all);
}

std::string stale_reason(const TuneRecord &record) {
    const int schema = record.json.value("schema", 0);
    if (schema != kRecordSchema) return fmt::format("schema {} is not {}", schema, kRecordSchema);
    const std::string name = record.text("target");
    for (const TargetInfo &target : known_targets()) {
        if (target.name != name) continue;
        if (target.halide != record.text("halide_target")) {
            return fmt::format("target {} was {}", name, record.text("halide_target"));
        }
        try {
            const KernelRow row = record.row();
            if (record.json["hashes"].value("algorithm", "") != algorithm_hash(row)) {
                return fmt::format("the algorithm of {} has changed", row.generator);
            }
            record.layer();
        } catch (const std::exception &error) {
            return error.what();
        }
        return "";
    }
    return fmt::format("target {} is unknown", name);
}

bool schedule_changed(const TuneRecord &record) {
    if (record.json["kernel"].contains("autoscheduler")) return false;
    const TargetInfo target{record.text("target"), record.text("halide_target"), ""};
    return record.json["hashes"].value("schedule", "") != schedule_hash(target);
}

RecordLog::RecordLog(const fs::path &file) : path_(file) {
    const auto refuse = [&](const std::string &why) {
        throw EnvironmentError(fmt::format("{}: cannot append records: {}", path_.string(), why));
    };
    file_ = open(file.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (file_ < 0) refuse(std::strerror(errno));
    if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
        close(file_);
        refuse("another tuning run is writing it");
    }
    // After a kill the last line may lack its end: the next record begins on a line of its own.
    const off_t size = lseek(file_, 0, SEEK_END);
    char last = '\n';
    if (size > 0 && pread(file_, &last, 1, size - 1) == 1 && last != '\n' && write(file_, "\n", 1) != 1) {
        close(file_);
        refuse(std::strerror(errno));
    }
}

RecordLog::~RecordLog() {
    close(file_);
}

void RecordLog::append(const TuneRecord &record) {
    const std::string line = record.json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    const ssize_t written = write(file_, line.data(), line.size());
    if (written != static_cast<ssize_t>(line.size()) || fdatasync(file_) != 0) {
        throw EnvironmentError(fmt::format("{}: cannot append a record: {}", path_.string(), std::strerror(errno)));
    }
}

} // namespace qconv::tools
