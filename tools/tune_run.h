// The tuning run itself: proposes, builds, measures and records until the budget is spent.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/tune_build.h"
#include "tools/tune_search.h"

namespace qconv::tools {

struct TuneSettings {
    std::vector<LayerSpec> layers;
    std::vector<qconv_op> ops;
    TargetInfo target;
    std::vector<StrategyShare> strategies;
    std::filesystem::path records;
    std::string runner;     // "": here
    bool estimate = false;  // no measuring: llvm-mca
    std::string core;       // that it models; "": a common one of the target
    std::size_t trials = 0; // a unit; 0: no limit
    double seconds = 0;     // of the whole run; 0: no limit
    std::size_t shard = 0, shards = 1;
    uint64_t seed = 1;
    int threads = 1;
    int turns = 12;      // of the finals
    bool retrain = true; // adams2019's cost model, on what was measured
    BuildSettings build;
};

/// All units of the layers, those of this shard: by the order of their keys, so that shards are as even as can be and a
/// unit is in the same shard on every machine that has the same list.
std::vector<TuneUnit> units_of(const TuneSettings &settings);

/// Runs, resuming from the records that are there. Prints a summary. Throws Error(kExitInterrupted) when stopped, with
/// all that was measured recorded.
void run_tuning(const TuneSettings &settings);

} // namespace qconv::tools
