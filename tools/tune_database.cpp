#include "tools/tune_database.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "tools/errors.h"
#include "tools/files.h"
#include "tools/report.h"
#include "tools/text.h"
#include "tools/tune_judge.h"
#include "tools/tune_summary.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;
using Json = TuneRecord::Json;

// SQLite's error codes, which SQLiteCpp's headers leave out.
constexpr int kCannotOpen = 14, kNotADatabase = 26;

/// Columns beside the JSON text, so that SQL can ask for them.
const std::vector<std::string> &columns() {
    static const std::vector<std::string> names = {"record",
                                                   "schema",
                                                   "kind",
                                                   "id",
                                                   "unit",
                                                   "time",
                                                   "layer",
                                                   "direction",
                                                   "target",
                                                   "strategy",
                                                   "kernel",
                                                   "knobs",
                                                   "seed",
                                                   "host",
                                                   "cpu",
                                                   "failure",
                                                   "time_us",
                                                   "gmacs",
                                                   "percent_of_peak",
                                                   "algorithm_hash",
                                                   "schedule_hash",
                                                   "binary_hash",
                                                   "halide",
                                                   "llvm"};
    return names;
}

std::string text_in(const Json &json, const char *object, const char *key) {
    return json.contains(object) && json[object].is_object() ? json[object].value(key, "") : "";
}

/// As the columns: a text each.
std::vector<std::string> cells(const TuneRecord &record) {
    const Json &j = record.json;
    if (!record.current()) {
        // What it means is not known here.
        std::vector<std::string> blank(columns().size());
        blank[0] = stable_hash(j.dump()), blank[1] = j["schema"].dump();
        return blank;
    }
    const auto number = [&](const char *key) {
        return record.ok() ? fmt::format("{}", j["result"].value(key, 0.0)) : std::string();
    };
    std::string knobs;
    if (j["kernel"].contains("autoscheduler")) {
        knobs = j["kernel"]["autoscheduler"]["params"].dump();
    } else if (j.contains("knobs")) {
        knobs = j["knobs"].dump();
    }
    return {stable_hash(j.dump()),
            j["schema"].dump(),
            record.kind(),
            record.id(),
            record.unit(),
            record.text("time"),
            text_in(j, "layer", "name"),
            record.text("direction"),
            record.text("target"),
            record.strategy(),
            text_in(j, "kernel", "name"),
            knobs,
            std::to_string(j.value("seed", uint64_t{0})),
            text_in(j, "machine", "host"),
            text_in(j, "machine", "cpu"),
            record.failure(),
            number("time_us"),
            number("gmacs"),
            number("percent_of_peak"),
            text_in(j, "hashes", "algorithm"),
            text_in(j, "hashes", "schedule"),
            text_in(j, "hashes", "binary"),
            text_in(j, "versions", "halide"),
            text_in(j, "versions", "llvm")};
}

/// SQLite judges: what a killed writer left may have no header yet, and a journal beside it that makes it whole again.
/// An empty file is a database without tables.
bool is_database(const fs::path &file) {
    std::error_code none;
    if (!fs::is_regular_file(file, none)) return false;
    try {
        // Where the file cannot be written SQLite opens it for reading.
        SQLite::Database(file.string(), SQLite::OPEN_READWRITE).execAndGet("SELECT COUNT(*) FROM sqlite_master");
        return true;
    } catch (const SQLite::Exception &error) {
        return error.getErrorCode() != kNotADatabase && error.getErrorCode() != kCannotOpen;
    }
}

LoadedRecords read_database(const fs::path &file) {
    LoadedRecords loaded;
    try {
        SQLite::Database database(file.string(), SQLite::OPEN_READWRITE); // a journal left behind is played back
        if (database.execAndGet("SELECT COUNT(*) FROM sqlite_master").getInt() == 0) return loaded;
        SQLite::Statement rows(database, "SELECT json FROM records ORDER BY rowid");
        while (rows.executeStep()) {
            TuneRecord record;
            const std::string problem = parse_record(rows.getColumn(0).getString(), record);
            if (problem.empty()) {
                loaded.records.push_back(std::move(record));
            } else {
                loaded.damaged.push_back(fmt::format("{}: skipped a damaged record: {}", file.string(), problem));
            }
        }
    } catch (const std::exception &error) {
        throw InputError(fmt::format("{}: is no database of tuning records: {}", file.string(), error.what()));
    }
    return loaded;
}

/// Spreadsheets take what begins with one of a few characters for a formula: an apostrophe tells them that it is text.
std::string csv_cell(std::string text) {
    if (text.find_first_of("=+-@\t\r") == 0) text.insert(0, "'");
    if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
    std::string quoted = "\"";
    for (const char c : text)
        quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
    return quoted + "\"";
}

/// T4's word for what became of a configuration.
std::string invalidity(const TuneRecord &record) {
    const std::string failure = record.failure();
    if (failure.empty()) return "correct";
    if (failure.ends_with("timeout")) return "timeout";
    if (failure == "wrong-result") return "correctness";
    if (failure.starts_with("run") || failure == "no-answer") return "runtime";
    return failure == "refused" ? "constraints" : "compile";
}

} // namespace

std::vector<TuneRecord> read_records(const fs::path &file) {
    std::error_code error;
    if (!fs::exists(file, error)) throw InputError(fmt::format("{}: there is no such file of records", file.string()));
    LoadedRecords loaded = is_database(file) ? read_database(file) : load_records(file);
    for (const std::string &message : loaded.damaged)
        report("qconvc: " + message);
    if (loaded.records.empty() && !loaded.damaged.empty())
        throw InputError(fmt::format("{}: holds no tuning record", file.string()));
    return std::move(loaded.records);
}

Merged merge_records(const fs::path &file, const std::vector<std::string> &inputs) {
    if (fs::exists(file) && !is_database(file)) {
        throw InputError(fmt::format("--merge {}: exists and is no database", file.string()));
    }
    std::vector<TuneRecord> records;
    for (const std::string &input : inputs) {
        std::vector<TuneRecord> more = read_records(input);
        std::move(more.begin(), more.end(), std::back_inserter(records));
    }
    Merged merged;
    merged.read = records.size();
    try {
        SQLite::Database database(file.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
        SQLite::Transaction transaction(database);
        std::string declared, places;
        for (const std::string &name : columns()) {
            const bool real = name == "time_us" || name == "gmacs" || name == "percent_of_peak";
            declared += name + (real ? " REAL, " : name == "record" ? " TEXT PRIMARY KEY, " : " TEXT, ");
            places += "NULLIF(?, ''), ";
        }
        database.exec("CREATE TABLE IF NOT EXISTS records (" + declared + "json TEXT NOT NULL)");
        database.exec("CREATE INDEX IF NOT EXISTS records_by_unit ON records (unit, target)");
        SQLite::Statement insert(database, "INSERT OR IGNORE INTO records VALUES (" + places + "?)");
        for (const TuneRecord &record : records) {
            if (!stale_reason(record).empty()) merged.stale++;
            int place = 1;
            for (const std::string &cell : cells(record))
                insert.bind(place++, cell);
            insert.bind(place, record.json.dump());
            merged.added += static_cast<std::size_t>(insert.exec());
            insert.reset();
        }
        transaction.commit();
    } catch (const SQLite::Exception &error) {
        throw EnvironmentError(fmt::format("--merge {}: {}", file.string(), error.what()));
    }
    return merged;
}

std::string records_csv(const std::vector<TuneRecord> &records) {
    std::string text = join(columns(), ",") + "\n";
    for (const TuneRecord &record : records) {
        std::vector<std::string> row = cells(record);
        std::transform(row.begin(), row.end(), row.begin(), csv_cell);
        text += join(row, ",") + "\n";
    }
    return text;
}

std::string records_t4(const std::vector<TuneRecord> &records) {
    Json results = Json::array();
    for (const TuneRecord &record : records) {
        const Json &j = record.json;
        Json configuration = {{"layer", text_in(j, "layer", "name")},
                              {"direction", record.text("direction")},
                              {"target", record.text("target")},
                              {"strategy", record.strategy()},
                              {"kernel", text_in(j, "kernel", "name")}};
        for (const auto &[name, value] : j.value("knobs", std::map<std::string, int>{}))
            configuration[name] = value;
        if (j["kernel"].contains("autoscheduler")) {
            for (const auto &[name, value] : j["kernel"]["autoscheduler"]["params"].items())
                configuration["autoscheduler." + name] = value;
        }
        Json measurements = Json::array(), runtimes = Json::array();
        for (const double time : record.repeats())
            runtimes.push_back(time / 1e3);
        if (record.ok()) {
            measurements.push_back({{"name", "time"}, {"value", record.time() / 1e3}, {"unit", "ms"}});
            measurements.push_back({{"name", "gmacs"}, {"value", record.gmacs()}, {"unit", "GMAC/s"}});
        }
        const Json seconds = j.value("seconds", Json::object());
        results.push_back({{"timestamp", record.text("time")},
                           {"configuration", configuration},
                           {"times",
                            {{"compilation", seconds.value("compile", 0.0) * 1e3},
                             {"benchmark", seconds.value("measure", 0.0) * 1e3},
                             {"framework", 0.0},
                             {"search_algorithm", 0.0},
                             {"validation", 0.0},
                             {"runtimes", runtimes}}},
                           {"invalidity", invalidity(record)},
                           {"correctness", record.failure() == "wrong-result" ? 0 : 1},
                           {"measurements", measurements},
                           {"objectives", Json::array({"time"})}});
    }
    return Json({{"schema_version", "1.0.0"}, {"results", results}}).dump(1) + "\n";
}

std::string winning_records(const std::vector<TuneRecord> &records) {
    std::string lines;
    for (const UnitRecords &unit : by_unit(records)) {
        const Judgement judgement = judge(unit.records);
        if (!judgement.confirmed) continue;
        const std::string group = judgement.best->text("group");
        for (const TuneRecord *record : unit.records) {
            if (record->id() != judgement.best->id() && record->id() != judgement.standard->id()) continue;
            // The turns say all that a judgement needs.
            if (record->kind() == "final" && record->text("group") == group) lines += record->json.dump() + "\n";
        }
    }
    return lines;
}

std::vector<std::string> export_schedules(const std::vector<TuneRecord> &records, const fs::path &folder) {
    std::vector<std::string> names;
    FileSet files;
    std::vector<std::string> texts;
    for (const UnitRecords &unit : by_unit(records)) {
        const TuneRecord *best = nullptr;
        for (const TuneRecord *record : unit.records) {
            if (record->kind() == "final" || record->text("schedule").empty()) continue;
            if (!best || record->time() < best->time()) best = record;
        }
        if (!best || !best->ok()) continue;
        const std::string name = fmt::format("{}_{}.schedule.h", identifier(unit_label(*best)), best->text("target"));
        texts.push_back(fmt::format(
            "// {} for {}: {:.2f} us by {} on {}, {}.\n// Kernel {} of kernels.json, generator {}.\n{}",
            unit_label(*best), best->text("target"), best->time(), best->strategy(),
            text_in(best->json, "machine", "cpu"), best->text("time").substr(0, 10),
            text_in(best->json, "kernel", "name"), text_in(best->json, "kernel", "generator"), best->text("schedule")));
        names.push_back(name);
    }
    fs::create_directories(folder);
    for (std::size_t i = 0; i < names.size(); i++) {
        const std::string_view text = texts[i];
        files.add(folder / names[i], std::span<const std::string_view>(&text, 1));
    }
    files.commit();
    return names;
}

} // namespace qconv::tools
