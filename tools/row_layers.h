// The rows of a workload table as layers of one kind, for the verbs that take a layer file or a table.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "tools/layer_file.h"

namespace qconv::tools {

/// What a table's rows do not say, as the command line gives it.
struct RowOptions {
    std::string kind = "QConv1d", input = "sign", weight = "sign", threshold = "none";

    void add_to(CLI::App &command);
};

/// The layers of a layer file (.json), or of a workload table (.csv) as layers of one kind.
std::vector<LayerSpec> read_layers_or_workloads(const std::string &path, const RowOptions &options);

} // namespace qconv::tools
