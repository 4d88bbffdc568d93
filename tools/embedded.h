// Files of the repository that are built into the tool, so that an installed qconvc needs nothing beside it.
#pragma once

#include <string_view>

namespace qconv::tools {

extern const std::string_view embedded_kernels_json;  // kernels.json
extern const std::string_view embedded_matrix_json;   // bench/matrix.json
extern const std::string_view embedded_workloads_csv; // bench/workloads.csv

} // namespace qconv::tools
