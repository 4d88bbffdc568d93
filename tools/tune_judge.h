// What the records of a unit amount to: the default, the best of each strategy, the winner, and whether it is one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/tune_records.h"

namespace qconv::tools {

/// A gain below this is noise, whatever the turns say.
constexpr double kLeastGain = 1.01;

struct Judgement {
    std::vector<const TuneRecord *> trials; ///< measurements (or estimates), in order
    const TuneRecord *standard = nullptr;   ///< the default's best measurement; null if it failed or is missing
    const TuneRecord *best = nullptr;       ///< the winner: the default unless another one is faster
    double gain = 1;                        ///< the default's time over the winner's
    /// The winner was measured in turns with the default and was faster in at least three of four turns, by kLeastGain;
    /// or the default was confirmed, or no other came near it. Else the winner is only the fastest measurement.
    bool confirmed = false;
    std::map<std::string, const TuneRecord *> best_of; ///< by strategy
    std::map<std::string, std::size_t> failures;       ///< by class
};

/// Of records of one unit; those of other machines than the default's are left out by the caller.
Judgement judge(const std::vector<const TuneRecord *> &records);

/// Records by unit, in the order of first appearance.
struct UnitRecords {
    std::string unit;
    std::vector<const TuneRecord *> records;
};
std::vector<UnitRecords> by_unit(const std::vector<TuneRecord> &records);

/// Measurements worth measuring again in turns: the default, the fastest few, and the best of each strategy if it is
/// near; none but the default that was slower beyond doubt.
std::vector<const TuneRecord *> finalists(const Judgement &judgement);

} // namespace qconv::tools
