// Which kernels a tuning run tries next for one unit.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tools/tune_records.h"
#include "tools/tune_unit.h"

namespace qconv::tools {

/// A strategy and the part of the trials it gets, relative to the others'.
struct StrategyShare {
    std::string name;
    double weight = 1;
};

/// The strategies' names: grid, random, evolve (knobs of our own schedules), mullapudi2016, li2018, adams2019,
/// anderson2021 (Halide's autoschedulers), and mix.
const std::vector<std::string> &strategy_names();
/// What a target can use of them: "mix" stands for evolve and the autoschedulers of its kind. Throws InputError for an
/// unknown name, and for an autoscheduler that does not serve the target.
std::vector<StrategyShare> resolve_strategies(const std::vector<std::string> &names, const TargetInfo &target);
/// "adams2019" and the others: Halide's name, "" for what is none.
std::string autoscheduler_of(const std::string &strategy);

/// Proposes candidates from the records of a unit. The same records, strategies and seed give the same proposals.
class UnitSearch {
public:
    UnitSearch(const TuneUnit &unit, std::vector<StrategyShare> strategies, uint64_t seed);

    const TuneUnit &unit() const { return unit_; }
    /// Measurements and estimates of the unit count as trials.
    void learn(const TuneRecord &record);
    /// The file name of the cost model that adams2019 goes by from now on; "": the one shipped with Halide.
    void set_weights(const std::string &weights) { weights_ = weights; }
    /// Candidates that are neither recorded nor proposed before: the default first, then by the strategies' shares.
    /// Fewer than `count` when all strategies are exhausted.
    std::vector<Candidate> propose(std::size_t count);
    std::size_t trials() const { return trials_; }
    /// Candidate of a record, to be built again.
    Candidate candidate_of(const TuneRecord &record) const;

private:
    struct Known {
        Candidate candidate;
        double time;
    };

    bool next_of(const std::string &strategy, std::mt19937_64 &random, Candidate &candidate);
    Candidate evolve(std::mt19937_64 &random) const;
    bool autoschedule(const std::string &strategy, uint64_t index, Candidate &candidate) const;

    TuneUnit unit_;
    CandidateSpace space_;
    std::vector<StrategyShare> strategies_;
    uint64_t seed_;
    std::string weights_;
    std::vector<Candidate> grid_;
    std::set<std::string> ids_;                // recorded or proposed
    std::map<std::string, std::size_t> taken_; // by strategy
    std::vector<Known> measured_;              // our own schedules, the fastest first
    std::size_t trials_ = 0;
};

} // namespace qconv::tools
