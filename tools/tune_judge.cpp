#include "tools/tune_judge.h"

#include <algorithm>
#include <set>

namespace qconv::tools {
namespace {

/// Turn by turn, the default's time over another's: sorted.
std::vector<double> ratios(const TuneRecord &standard, const TuneRecord &other) {
    const std::vector<double> a = standard.repeats(), b = other.repeats();
    std::vector<double> all;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); i++)
        all.push_back(a[i] / b[i]);
    std::sort(all.begin(), all.end());
    return all;
}

double quantile(const std::vector<double> &sorted, double q) {
    return sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1))];
}

/// The last group of finals that has a default.
std::vector<const TuneRecord *> last_finals(const std::vector<const TuneRecord *> &records,
                                            const TuneRecord *&standard) {
    std::map<std::string, std::vector<const TuneRecord *>> groups;
    std::string last;
    for (const TuneRecord *record : records) {
        if (record->kind() != "final" || !record->ok()) continue;
        groups[record->text("group")].push_back(record);
        if (record->strategy() == "default") last = record->text("group");
    }
    if (last.empty()) return {};
    for (const TuneRecord *record : groups[last])
        if (record->strategy() == "default") standard = record;
    return groups[last];
}

} // namespace

Judgement judge(const std::vector<const TuneRecord *> &records) {
    Judgement judgement;
    const auto faster = [](const TuneRecord *a, const TuneRecord *b) { return !b || a->time() < b->time(); };
    std::map<std::string, const TuneRecord *> by_id;
    for (const TuneRecord *record : records) {
        if (record->kind() == "final") continue;
        judgement.trials.push_back(record);
        if (!record->ok()) {
            judgement.failures[record->failure()]++;
            continue;
        }
        const TuneRecord *&best = judgement.best_of[record->strategy()];
        if (faster(record, best)) best = record;
        if (faster(record, by_id[record->id()])) by_id[record->id()] = record;
        if (record->strategy() == "default" && faster(record, judgement.standard)) judgement.standard = record;
        if (faster(record, judgement.best)) judgement.best = record;
    }
    const TuneRecord *standard = nullptr;
    const std::vector<const TuneRecord *> finals = last_finals(records, standard);
    if (standard) {
        judgement.confirmed = true;
        const TuneRecord *winner = standard;
        for (const TuneRecord *record : finals) {
            const std::vector<double> all = ratios(*standard, *record);
            if (record == standard || all.empty() || quantile(all, 0.25) < kLeastGain) continue;
            if (quantile(all, 0.5) > judgement.gain) judgement.gain = quantile(all, 0.5), winner = record;
        }
        judgement.best = winner;
        judgement.standard = standard;
        return judgement;
    }
    if (judgement.standard && judgement.best) {
        judgement.gain = judgement.standard->time() / judgement.best->time();
        if (judgement.gain < kLeastGain) judgement.best = judgement.standard, judgement.gain = 1;
        // Where no other comes near there is nothing to hold turns for.
        const auto measured = std::count_if(judgement.trials.begin(), judgement.trials.end(),
                                            [](const TuneRecord *r) { return r->ok() && r->kind() == "measurement"; });
        judgement.confirmed = judgement.best == judgement.standard && measured > 1 && finalists(judgement).size() == 1;
    }
    return judgement;
}

std::vector<UnitRecords> by_unit(const std::vector<TuneRecord> &records) {
    std::vector<UnitRecords> units;
    std::map<std::string, std::size_t> places;
    for (const TuneRecord &record : records) {
        const auto [place, fresh] = places.try_emplace(record.unit(), units.size());
        if (fresh) units.push_back({record.unit(), {}});
        units[place->second].records.push_back(&record);
    }
    return units;
}

std::vector<const TuneRecord *> finalists(const Judgement &judgement) {
    constexpr std::size_t kFastest = 4;
    constexpr double kNear = 1.1;
    constexpr double kHopeless = 1.05; // of the default's time: trials a minute apart differ by less
    std::vector<const TuneRecord *> sorted = judgement.trials;
    std::erase_if(sorted, [&](const TuneRecord *record) {
        return !record->ok() || (judgement.standard && record->time() > kHopeless * judgement.standard->time());
    });
    std::sort(sorted.begin(), sorted.end(),
              [](const TuneRecord *a, const TuneRecord *b) { return a->time() < b->time(); });
    std::vector<const TuneRecord *> chosen;
    std::set<std::string> ids;
    const auto add = [&](const TuneRecord *record) {
        if (record && ids.insert(record->id()).second) chosen.push_back(record);
    };
    add(judgement.standard);
    for (std::size_t i = 0; i < std::min(sorted.size(), kFastest); i++)
        add(sorted[i]);
    for (const auto &[strategy, record] : judgement.best_of) {
        const bool hopeful = std::find(sorted.begin(), sorted.end(), record) != sorted.end();
        if (hopeful && record->time() < kNear * sorted.front()->time()) add(record);
    }
    return chosen;
}

} // namespace qconv::tools
