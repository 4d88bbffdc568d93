#include "tools/tune_summary.h"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "tools/text.h"

namespace qconv::tools {

std::string unit_label(const TuneRecord &record) {
    return fmt::format("{} {}", record.json["layer"].value("name", "?"), record.text("direction"));
}

void print_tuning_summary(const std::vector<UnitRecords> &units, double seconds) {
    std::set<std::string> strategies;
    std::size_t trials = 0, failures = 0, width = 5;
    std::vector<Judgement> judgements;
    for (const UnitRecords &unit : units) {
        const Judgement &judgement = judgements.emplace_back(judge(unit.records));
        trials += judgement.trials.size();
        for (const auto &[name, count] : judgement.failures)
            failures += count;
        for (const auto &[strategy, record] : judgement.best_of)
            if (strategy != "default") strategies.insert(strategy);
        width = std::max(width, unit_label(*unit.records.front()).size());
    }
    fmt::print("{:<{}} {:>11}", "", width, "default us");
    for (const std::string &strategy : strategies)
        fmt::print(" {:>13}", strategy);
    fmt::print(" {:>11} {:>6} {:>7} {:>7}\n", "best us", "gain", "% peak", "trials");
    double logs = 0;
    std::size_t counted_gains = 0;
    for (std::size_t i = 0; i < units.size(); i++) {
        const Judgement &j = judgements[i];
        fmt::print("{:<{}} ", unit_label(*units[i].records.front()), width);
        fmt::print("{:>11}", j.standard ? fmt::format("{:.2f}", j.standard->time()) : "failed");
        for (const std::string &strategy : strategies) {
            const auto best = j.best_of.find(strategy);
            fmt::print(" {:>13}", best == j.best_of.end() ? "-" : fmt::format("{:.2f}", best->second->time()));
        }
        if (!j.best || !j.standard) {
            fmt::print(" {:>11} {:>6} {:>7} {:>7}\n", "-", "-", "-", j.trials.size());
            continue;
        }
        fmt::print(" {:>11.2f} {:>6.3f} {:>7.1f} {:>7}  {}{}\n", j.best->time(), j.gain, j.best->percent_of_peak(),
                   j.trials.size(), j.best->strategy(), j.confirmed ? "" : " (not confirmed)");
        logs += std::log(j.gain);
        counted_gains++;
    }
    const bool estimated = !units.empty() && units.front().records.front()->kind() == "estimate";
    if (estimated) fmt::print("\nestimates by llvm-mca of the hottest loop, not measurements; microseconds at 1 GHz");
    fmt::print("\n{}, {} failed, in {}", counted(trials, "trial"), failures, human_seconds(seconds));
    if (counted_gains > 0) {
        fmt::print("; geometric mean gain over the defaults: {:.3f}",
                   std::exp(logs / static_cast<double>(counted_gains)));
    }
    fmt::print("\n");
}

} // namespace qconv::tools
