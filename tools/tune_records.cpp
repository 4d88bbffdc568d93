#include "tools/tune_records.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "runtime/config.h"
#include "runtime/registry.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/json_object.h"
#include "tools/source_hashes.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;
using Json = TuneRecord::Json;

bool is_text(const Json &value) {
    return value.is_string();
}

bool is_object(const Json &value) {
    return value.is_object();
}

bool is_texts(const Json &value) {
    return is_object(value) && std::all_of(value.begin(), value.end(), is_text);
}

bool is_count(const Json &value) {
    return value.is_number_unsigned();
}

/// Bounds that no figure of a kernel reaches, so that nothing made of two of them overflows.
bool is_figure(const Json &value) {
    return value.is_number() && value.get<double>() >= 0 && value.get<double>() < 1e15;
}

bool is_time(const Json &value) {
    return is_figure(value) && value.get<double>() > 1e-9;
}

bool is_times(const Json &value) {
    return value.is_array() && std::all_of(value.begin(), value.end(), is_time);
}

bool is_knobs(const Json &value) {
    constexpr int kMost = 1 << 30;
    return is_object(value) && std::all_of(value.begin(), value.end(), [](const Json &knob) {
               return knob.is_number_unsigned() && knob.get<uint64_t>() < kMost;
           });
}

struct Field {
    const char *object, *key; // object "": of the record itself
    bool (*good)(const Json &);
    const char *wanted;
    bool optional = false;
};

/// What a record has, objects before what is in them. Fields of an object that may be missing are asked of it if it is
/// there.
const Field kFields[] = {
    {"", "kind", is_text, "a text"},
    {"", "id", is_text, "a text"},
    {"", "unit", is_text, "a text"},
    {"", "time", is_text, "a text"},
    {"", "direction", is_text, "a text"},
    {"", "target", is_text, "a text"},
    {"", "halide_target", is_text, "a text"},
    {"", "strategy", is_text, "a text"},
    {"", "group", is_text, "a text", true},
    {"", "schedule", is_text, "a text", true},
    {"", "knobs", is_knobs, "an object of integers"},
    {"", "seed", is_count, "an integer >= 0"},
    {"", "draw", is_count, "an integer >= 0"},
    {"", "layer", is_object, "an object"},
    {"", "kernel", is_object, "an object"},
    {"kernel", "name", is_text, "a text"},
    {"kernel", "generator", is_text, "a text"},
    {"kernel", "autoscheduler", is_object, "an object", true},
    {"kernel", "params", is_texts, "an object of texts"},
    {"", "hashes", is_texts, "an object of texts"},
    {"", "machine", is_texts, "an object of texts"},
    {"", "versions", is_texts, "an object of texts"},
    {"", "seconds", is_object, "an object"},
    {"seconds", "compile", is_figure, "a number >= 0"},
    {"seconds", "measure", is_figure, "a number >= 0"},
    {"result", "time_us", is_time, "a number > 0"},
    {"result", "repeats_us", is_times, "a list of numbers > 0", true},
    {"result", "gmacs", is_figure, "a number >= 0", true},
    {"result", "percent_of_peak", is_figure, "a number >= 0", true},
    {"failure", "class", is_text, "a text"},
    {"failure", "text", is_text, "a text", true},
};

/// What is wrong with a record, "" if nothing is. Records of another schema are only recognised, not checked.
std::string defect(const TuneRecord &record) {
    const Json &json = record.json;
    if (!json.is_object()) return "it is no object";
    if (!json.contains("schema") || !json["schema"].is_number_integer()) return "it has no schema";
    if (!record.current()) return "";
    for (const Field &field : kFields) {
        const bool inside = *field.object != '\0';
        if (inside && (!json.contains(field.object) || !json[field.object].is_object())) continue;
        const Json &object = inside ? json[field.object] : json;
        const bool there = object.contains(field.key);
        if (there ? field.good(object[field.key]) : field.optional) continue;
        return fmt::format("'{}{}{}' is {}; it must be {}", field.object, inside ? "." : "", field.key,
                           there ? "not what it must be" : "missing", field.wanted);
    }
    if (json["kernel"].contains("autoscheduler") && !is_texts(json["kernel"]["autoscheduler"].value("params", Json())))
        return "'kernel.autoscheduler.params' is no object of texts";
    const bool failure = json.contains("failure") && json["failure"].is_object();
    if (record.ok() == failure) return "it must have either a result or a failure";
    if (failure && record.failure().empty()) return "'failure.class' is empty";
    try {
        static_cast<void>(record.op());
        const LayerSpec layer = record.layer();
        check_batch(layer.batch);
        static_cast<void>(width_out(layer.config, layer.width));
    } catch (const std::runtime_error &error) {
        return error.what();
    }
    return "";
}

} // namespace

bool TuneRecord::current() const {
    return json.at("schema") == kRecordSchema;
}

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

std::string parse_record(std::string_view text, TuneRecord &record) {
    bool deep = false;
    record.json = Json::parse(
        text,
        [&](int depth, Json::parse_event_t, Json &) {
            deep = deep || depth > kDeepestJson;
            return !deep;
        },
        /*allow_exceptions=*/false);
    if (deep) return fmt::format("it has more than {} arrays and objects inside each other", kDeepestJson);
    return record.json.is_discarded() ? "it is cut short or no JSON" : defect(record);
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
        const std::string problem = parse_record(one, record);
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
    // The files of an architecture begin with its name, those that all CPUs share with "cpu".
    const bool gpu =
        target.halide.find("cuda") != std::string::npos || target.halide.find("opencl") != std::string::npos;
    const std::string architecture = gpu ? "gpu" : target.halide.substr(0, target.halide.find('-'));
    std::string all;
    for (const auto &[name, hash] : schedule_file_hashes())
        if (name.starts_with(architecture) || (!gpu && name.starts_with("cpu"))) all += hash;
    return stable_hash(all);
}

std::string stale_reason(const TuneRecord &record) {
    if (!record.current()) return fmt::format("schema {} is not {}", record.json["schema"].dump(), kRecordSchema);
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
            if (const char *wrong = layout_defect(row.layout)) return fmt::format("its kernel: {}", wrong);
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
    struct stat kind{};
    if (fstat(file_, &kind) != 0 || !S_ISREG(kind.st_mode)) {
        close(file_);
        refuse("it is no ordinary file");
    }
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
