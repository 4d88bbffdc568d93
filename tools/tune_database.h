// Records of many runs in one place: a SQLite database, and what is exported from it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/tune_records.h"

namespace qconv::tools {

/// Records of a database or of a file of JSON lines, whichever it is. Damaged lines are reported on standard error.
/// Throws InputError if it is missing or neither.
std::vector<TuneRecord> read_records(const std::filesystem::path &file);

/// What merging did.
struct Merged {
    std::size_t read = 0, added = 0, stale = 0;
};

/// Adds the records of the inputs to a database, made if missing; those it has already are not added again. All of it
/// or, on an error, none of it.
Merged merge_records(const std::filesystem::path &database, const std::vector<std::string> &inputs);

/// One row a record, the columns those of the database but for the JSON text.
std::string records_csv(const std::vector<TuneRecord> &records);
/// The T4 results format, version 1.0.0, of the autotuning tools' common schema.
std::string records_t4(const std::vector<TuneRecord> &records);

/// The records behind each unit's outcome alone, as JSON lines: of the default and of the winner, their measurements
/// and their last turns. Units without turns are left out.
std::string winning_records(const std::vector<TuneRecord> &records);

/// Autoscheduled winners as C++ source: one file for each unit whose fastest autoscheduled kernel has a schedule.
/// Returns the files' names.
std::vector<std::string> export_schedules(const std::vector<TuneRecord> &records, const std::filesystem::path &folder);

} // namespace qconv::tools
