// Kernels that a tuning run found, for `qconvc compile --tuned`.
#pragma once

#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/tune_records.h"

namespace qconv::tools {

/// What the records say for one op of a layer on a target.
struct TunedChoice {
    std::optional<KernelRow> row;    ///< none: the default is the best, or nothing is known
    CallSizes sizes;                 ///< that an autoscheduled row was made for
    nlohmann::ordered_json manifest; ///< where it comes from; null if nothing is known
};

class TunedKernels {
public:
    /// Reads a database or a file of records. Throws InputError.
    explicit TunedKernels(const std::filesystem::path &file);

    /// The best valid record of a layer that computes the same with the same shape: of the nearest width and batch, on
    /// this CPU before others. Records of kernels that have changed since are left out.
    TunedChoice choose(const LayerSpec &layer, qconv_op op, const TargetInfo &target) const;

    const std::filesystem::path &file() const { return file_; }
    std::size_t valid() const { return records_.size(); }
    /// Left out, and why the first of them was.
    std::size_t stale() const { return stale_; }
    const std::string &stale_reason_seen() const { return reason_; }

private:
    std::filesystem::path file_;
    std::deque<TuneRecord> records_;
    std::size_t stale_ = 0;
    std::string reason_;
};

/// Where a file of records, or a database, keeps the cost models that its autoscheduled kernels were made with.
std::filesystem::path weights_folder(const std::filesystem::path &records);
/// Copies the cost models of the inputs to the database's folder.
void merge_weights(const std::filesystem::path &database, const std::vector<std::string> &inputs);
/// The row with the cost model's file name made a path in that folder, if it names one.
KernelRow with_weights(KernelRow row, const std::filesystem::path &folder);

} // namespace qconv::tools
