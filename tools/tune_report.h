// A tuning run's records as one HTML page that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "tools/tune_records.h"

namespace qconv::tools {

/// The page: outcome, percent of peak, and for each layer and direction the convergence, strategies, knobs and
/// failures. `source` names the records. Throws InputError without any.
std::string tuning_report(const std::vector<TuneRecord> &records, const std::string &source);

} // namespace qconv::tools
