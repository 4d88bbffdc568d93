// A tuning run's outcome as text.
#pragma once

#include <vector>

#include "tools/tune_judge.h"

namespace qconv::tools {

/// A row a unit: default, the best of each strategy, gain, percent of peak, trials; then the mean gain.
void print_tuning_summary(const std::vector<UnitRecords> &units, double seconds);

/// "conv1 forward": what a unit is called in tables.
std::string unit_label(const TuneRecord &record);

} // namespace qconv::tools
