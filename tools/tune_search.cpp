#include "tools/tune_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tools/errors.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

const std::map<std::string, std::string> &autoschedulers() {
    static const std::map<std::string, std::string> table = {{"mullapudi2016", "Mullapudi2016"},
                                                             {"li2018", "Li2018"},
                                                             {"adams2019", "Adams2019"},
                                                             {"anderson2021", "Anderson2021"}};
    return table;
}

bool is_gpu(const TargetInfo &target) {
    return target.halide.find("cuda") != std::string::npos || target.halide.find("opencl") != std::string::npos;
}

bool serves(const std::string &autoscheduler, const TargetInfo &target) {
    if (autoscheduler == "Anderson2021") return target.halide.find("cuda") != std::string::npos;
    return !is_gpu(target);
}

} // namespace

const std::vector<std::string> &strategy_names() {
    static const std::vector<std::string> names = {"mix",           "evolve", "random",    "grid",
                                                   "mullapudi2016", "li2018", "adams2019", "anderson2021"};
    return names;
}

std::string autoscheduler_of(const std::string &strategy) {
    const auto found = autoschedulers().find(strategy);
    return found == autoschedulers().end() ? "" : found->second;
}

std::vector<StrategyShare> resolve_strategies(const std::vector<std::string> &names, const TargetInfo &target) {
    std::vector<StrategyShare> shares;
    const auto add = [&](const std::string &name, double weight) {
        const auto same = [&](const StrategyShare &share) { return share.name == name; };
        if (std::none_of(shares.begin(), shares.end(), same)) shares.push_back({name, weight});
    };
    for (const std::string &name : names) {
        const auto &known = strategy_names();
        if (std::find(known.begin(), known.end(), name) == known.end()) {
            throw InputError(
                fmt::format("--strategy '{}'{}; allowed: {}", name, did_you_mean(name, known), join(known)));
        }
        if (name == "mix") {
            // Of the autoschedulers only adams2019 and anderson2021 have more than a few schedules to offer.
            add("evolve", 6);
            for (const auto &[strategy, halide] : autoschedulers())
                if (serves(halide, target))
                    add(strategy, strategy == "adams2019" || strategy == "anderson2021" ? 2 : 1);
            continue;
        }
        const std::string halide = autoscheduler_of(name);
        if (!halide.empty() && !serves(halide, target)) {
            throw InputError(fmt::format("--strategy {}: it makes no schedules for {}", name, target.name));
        }
        add(name, 1);
    }
    return shares;
}

UnitSearch::UnitSearch(const TuneUnit &unit, std::vector<StrategyShare> strategies, uint64_t seed)
    : unit_(unit), space_(unit), strategies_(std::move(strategies)), seed_(seed) {}

Candidate UnitSearch::candidate_of(const TuneRecord &record) const {
    Candidate candidate;
    candidate.strategy = record.strategy();
    candidate.base = record.json["kernel"].value("name", "");
    candidate.knobs = record.json.value("knobs", std::map<std::string, int>{});
    candidate.row = record.row();
    candidate.seed = record.json.value("draw", uint64_t{0});
    return candidate;
}

void UnitSearch::learn(const TuneRecord &record) {
    if (record.kind() == "final" || record.unit() != unit_.key()) return;
    trials_++;
    if (ids_.insert(record.id()).second) taken_[record.strategy()]++;
    Candidate candidate = candidate_of(record);
    if (!record.ok() || !candidate.row.autoscheduler.name.empty()) return;
    const double time = record.time();
    const auto place =
        std::find_if(measured_.begin(), measured_.end(), [&](const Known &known) { return known.time > time; });
    measured_.insert(place, {std::move(candidate), time});
}

Candidate UnitSearch::evolve(std::mt19937_64 &random) const {
    constexpr std::size_t kParents = 5;
    constexpr uint64_t kFresh = 6; // one in so many is drawn anew
    // The other rows as they are come first.
    constexpr std::size_t kRows = 6;
    const auto taken = taken_.find("evolve");
    const std::size_t index = 1 + (taken == taken_.end() ? 0 : taken->second);
    if (index < std::min(space_.rows().size(), kRows)) {
        const Candidate &row = space_.rows()[index];
        if (!ids_.contains(row.id(unit_))) return row;
    }
    if (measured_.empty() || random() % kFresh == 0) {
        Candidate fresh = space_.random(random);
        fresh.strategy = "evolve";
        return fresh;
    }
    const std::size_t parents = std::min(measured_.size(), kParents);
    const std::size_t parent = random() % 2 == 0 ? 0 : random() % parents;
    return space_.neighbour(measured_[parent].candidate, random);
}

bool UnitSearch::autoschedule(const std::string &strategy, uint64_t index, Candidate &candidate) const {
    const auto &rows = space_.rows();
    // Two are deterministic: one schedule a row. For the others, the default's layout of weights mostly, for the cost
    // model learns from many schedules of one pipeline.
    constexpr uint64_t kOtherRow = 5; // one in so many
    const bool deterministic = strategy == "mullapudi2016" || strategy == "li2018";
    if (deterministic && index >= rows.size()) return false;
    const bool other = index % kOtherRow == kOtherRow - 1;
    candidate = rows[deterministic ? index : other ? (index / kOtherRow + 1) % rows.size() : 0];
    candidate.strategy = strategy;
    candidate.knobs.clear();
    candidate.seed = index;
    Autoscheduler &autoscheduler = candidate.row.autoscheduler;
    autoscheduler.name = autoscheduler_of(strategy);
    autoscheduler.params = {{"parallelism", std::to_string(unit_.threads)}};
    if (deterministic) return true;
    if (strategy == "anderson2021") {
        autoscheduler.params["parallelism"] = "80"; // multiprocessors
        candidate.row.params.erase("carry_save");   // its search fails inside Halide on the adders' chain of counts
    }
    if (index == 0) {
        autoscheduler.params["beam_size"] = "8";
    } else {
        // A greedy search whose choices are dropped at random: cheap, and different each time.
        autoscheduler.params["beam_size"] = "1";
        autoscheduler.params["random_dropout"] = "5";
        autoscheduler.params["random_dropout_seed"] = std::to_string(seed_ * 1000 + index);
    }
    if (!weights_.empty()) autoscheduler.params["weights_path"] = weights_;
    return true;
}

bool UnitSearch::next_of(const std::string &strategy, std::mt19937_64 &random, Candidate &candidate) {
    constexpr int kAttempts = 200;
    for (int attempt = 0; attempt < kAttempts; attempt++) {
        if (strategy == "evolve") {
            candidate = evolve(random);
        } else if (strategy == "random") {
            candidate = space_.random(random);
        } else if (strategy == "grid") {
            if (grid_.empty()) grid_ = space_.grid(seed_);
            const auto fresh = std::find_if(grid_.begin(), grid_.end(),
                                            [&](const Candidate &one) { return !ids_.contains(one.id(unit_)); });
            if (fresh == grid_.end()) return false;
            candidate = *fresh;
        } else if (!autoschedule(strategy, taken_[strategy] + static_cast<std::size_t>(attempt), candidate)) {
            return false;
        }
        candidate.strategy = strategy;
        if (!ids_.contains(candidate.id(unit_))) return true;
    }
    return false;
}

std::vector<Candidate> UnitSearch::propose(std::size_t count) {
    std::vector<Candidate> proposed;
    const auto take = [&](Candidate candidate) {
        ids_.insert(candidate.id(unit_));
        taken_[candidate.strategy]++;
        proposed.push_back(std::move(candidate));
    };
    const Candidate standard = space_.default_candidate();
    if (count > 0 && !ids_.contains(standard.id(unit_))) take(standard);
    // What is drawn depends on how far the search has come, not on how often it was interrupted.
    std::mt19937_64 random(seed_ ^ std::stoull(unit_.key(), nullptr, 16) ^ (ids_.size() << 32));
    std::set<std::string> exhausted;
    while (proposed.size() < count && exhausted.size() < strategies_.size()) {
        const StrategyShare *next = nullptr;
        double least = std::numeric_limits<double>::infinity();
        for (const StrategyShare &share : strategies_) {
            // Half a step ahead, so that the first of each comes early however small its share.
            const double due = (static_cast<double>(taken_[share.name]) + 0.5) / share.weight;
            if (exhausted.contains(share.name) || due >= least) continue;
            least = due;
            next = &share;
        }
        Candidate candidate;
        if (next_of(next->name, random, candidate)) {
            take(std::move(candidate));
        } else {
            exhausted.insert(next->name);
        }
    }
    return proposed;
}

} // namespace qconv::tools
