// Tuning records: JSON lines in a file that is only ever appended to. docs/tuning.md lists the fields.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/tune_unit.h"

namespace qconv::tools {

/// Of the records' form; a reader takes no other.
constexpr int kRecordSchema = 1;

/// One line.
struct TuneRecord {
    using Json = nlohmann::ordered_json;
    Json json;

    /// Whether it is of the schema that this program reads. Nothing else may be asked of one that is not.
    bool current() const;
    std::string text(const char *key) const { return json.value(key, ""); }
    /// "measurement": one candidate, alone. "final": one of the best, in turns with the others of its `group`.
    /// "estimate": of a program that predicts.
    std::string kind() const { return text("kind"); }
    std::string unit() const { return text("unit"); }
    std::string id() const { return text("id"); }
    std::string strategy() const { return text("strategy"); }
    bool ok() const { return json.contains("result") && json["result"].is_object(); }
    /// "": none. Else compile-error, compile-crash, compile-timeout, out-of-memory, run-crash, run-timeout,
    /// wrong-result, refused, no-answer.
    std::string failure() const;
    /// Microseconds of a call; infinity after a failure.
    double time() const;
    std::vector<double> repeats() const;
    /// 0 where it is not known.
    double percent_of_peak() const;
    double gmacs() const;
    KernelRow row() const;
    LayerSpec layer() const;
    qconv_op op() const;
};

/// The record in a line of JSON. Returns what is wrong with it, "" if nothing is; of another schema's only that it is
/// one.
std::string parse_record(std::string_view text, TuneRecord &record);

/// What was in a file of records.
struct LoadedRecords {
    std::vector<TuneRecord> records;
    std::vector<std::string> damaged; ///< messages, one a line that is no record
};

/// Reads a file; a missing one has no records. A line that does not parse, or whose fields are not what they must be,
/// is reported in `damaged` and left out. Throws InputError if the file cannot be read.
LoadedRecords load_records(const std::filesystem::path &file);

/// Why a record says nothing about kernels compiled by this qconvc: another schema, an unknown target or one whose
/// features have changed, another algorithm. "" if it does.
std::string stale_reason(const TuneRecord &record);
/// Whether our schedules have changed since: its knobs stand, its time may not.
bool schedule_changed(const TuneRecord &record);

/// Hashes of this qconvc's sources for a row: what a record keeps.
std::string algorithm_hash(const KernelRow &row);
std::string schedule_hash(const TargetInfo &target);

/// A file of records open for appending. Each record is on the disk before append() returns.
class RecordLog {
public:
    /// Takes the file for this process; throws EnvironmentError if another one has it or it cannot be written.
    explicit RecordLog(const std::filesystem::path &file);
    ~RecordLog();
    RecordLog(const RecordLog &) = delete;
    RecordLog &operator=(const RecordLog &) = delete;

    void append(const TuneRecord &record);

private:
    std::filesystem::path path_;
    int file_ = -1;
};

} // namespace qconv::tools
