// Any bytes as a file of tuning records: what is a record serves every reader of records, what is not is reported, and
// nothing but an InputError leaves a reader. "@@" stands for the hash of a generator as this build has it, so that the
// corpus has records that are not stale.
#include <cstdlib>
#include <string>
#include <vector>

#include "memory_file.h"
#include "tools/errors.h"
#include "tools/source_hashes.h"
#include "tools/targets.h"
#include "tools/tune_database.h"
#include "tools/tune_judge.h"
#include "tools/tune_report.h"
#include "tools/tuned.h"

namespace {

using namespace qconv::tools;

void require(bool condition) {
    if (!condition) std::abort();
}

void export_records(const std::vector<TuneRecord> &records) {
    require(!records_csv(records).empty());
    require(!records_t4(records).empty());
    winning_records(records);
    for (const UnitRecords &unit : by_unit(records))
        finalists(judge(unit.records));
    try {
        tuning_report(records, "fuzz");
    } catch (const InputError &) {
        require(by_unit(records).empty());
    }
}

/// What `qconvc compile --tuned` does, for the layers that the records are of.
void choose(const std::string &path, const std::vector<TuneRecord> &records) {
    const TunedKernels tuned(path);
    require(tuned.valid() + tuned.stale() == records.size());
    for (const TuneRecord &record : records) {
        if (!stale_reason(record).empty()) continue;
        schedule_changed(record);
        for (const TargetInfo &target : known_targets())
            if (target.name == record.text("target")) tuned.choose(record.layer(), record.op(), target);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::string text(reinterpret_cast<const char *>(data), size);
    for (size_t at = 0; (at = text.find("@@", at)) != text.npos;)
        text.replace(at, 2, generator_hashes().at("forward_b1b1"));
    const qconv::fuzz::MemoryFile file(reinterpret_cast<const uint8_t *>(text.data()), text.size());
    LoadedRecords loaded = load_records(file.path());
    if (loaded.damaged.empty()) choose(file.path(), loaded.records);
    std::erase_if(loaded.records, [](const TuneRecord &record) { return !record.current(); });
    export_records(loaded.records);
    return 0;
}
