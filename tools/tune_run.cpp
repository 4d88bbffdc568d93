#include "tools/tune_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>
#include <set>

#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/report.h"
#include "tools/text.h"
#include "tools/tune_display.h"
#include "tools/tune_estimate.h"
#include "tools/tune_judge.h"
#include "tools/tune_retrain.h"
#include "tools/tune_summary.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// A program that takes longer is given up: the slowest layer of the workload table needs a fraction of it.
constexpr double kRunSeconds = 60;

class TuningRun {
public:
    explicit TuningRun(const TuneSettings &settings)
        : settings_(settings),
          log_(settings.records),
          work_(fs::absolute(settings.records).parent_path()),
          model_(settings.records, settings.build.weights, settings.target, settings.retrain),
          start_(Clock::now()) {
        LoadedRecords loaded = load_records(settings.records);
        for (const std::string &message : loaded.damaged)
            report("qconvc: " + message);
        std::size_t stale = 0;
        for (TuneRecord &record : loaded.records) {
            if (stale_reason(record).empty() && !schedule_changed(record)) {
                records_.push_back(std::move(record));
            } else {
                stale++;
            }
        }
        if (stale > 0) {
            report(fmt::format("qconvc: {}: {} of kernels that have changed since: measured anew",
                               settings.records.string(), counted(stale, "record")));
        }
        settings_.build.folder = work_.path();
        std::vector<TuneDisplay::Line> lines;
        for (const TuneUnit &unit : units_of(settings)) {
            UnitSearch &search = searches_.emplace_back(unit, settings.strategies, settings.seed);
            for (const TuneRecord &record : records_)
                search.learn(record);
            lines.push_back(line_of(search));
        }
        display_ =
            std::make_unique<TuneDisplay>(std::move(lines), settings.trials * searches_.size(), settings.seconds);
    }

    void run() {
        try {
            while (step()) {
            }
            if (!settings_.estimate)
                for (std::size_t i = 0; i < searches_.size(); i++)
                    hold_finals(i);
        } catch (const Interrupted &) {
            display_->close();
            summary();
            throw Error(kExitInterrupted,
                        fmt::format("interrupted; {} hold what was measured: the same command goes on",
                                    settings_.records.string()));
        }
        display_->close();
        summary();
        fail_if_nothing_worked();
    }

private:
    double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
    bool time_is_up() const { return settings_.seconds > 0 && elapsed() > settings_.seconds; }

    std::vector<const TuneRecord *> records_of(const std::string &unit) const {
        std::vector<const TuneRecord *> found;
        for (const TuneRecord &record : records_)
            if (record.unit() == unit) found.push_back(&record);
        return found;
    }

    TuneDisplay::Line line_of(const UnitSearch &search) const {
        const Judgement judgement = judge(records_of(search.unit().key()));
        TuneDisplay::Line line;
        line.label = search.unit().label();
        line.trials = judgement.trials.size();
        for (const auto &[name, count] : judgement.failures)
            line.failures += count;
        if (judgement.standard) line.standard = judgement.standard->time();
        if (judgement.best) {
            line.best = judgement.best->time();
            line.percent = judgement.best->percent_of_peak();
            line.strategy = judgement.best->strategy();
        }
        return line;
    }

    void keep(TuneRecord::Json json) {
        records_.push_back({std::move(json)});
        log_.append(records_.back());
    }

    /// Proposes, builds and measures one batch; false when nothing is left to do.
    bool step() {
        check_interrupt();
        retrain();
        if (time_is_up() || searches_.empty()) return false;
        // Compilers work side by side, measurements alone: so first the one, then the other.
        const std::size_t wanted = static_cast<std::size_t>(settings_.build.jobs) * 2;
        std::vector<Trial> batch;
        std::vector<std::size_t> owners;
        for (std::size_t turn = 0; turn < searches_.size() && batch.size() < wanted; turn++) {
            const std::size_t index = next_++ % searches_.size();
            UnitSearch &search = searches_[index];
            const std::size_t known = search.trials();
            if (settings_.trials > 0 && known >= settings_.trials) continue;
            std::size_t room = std::max<std::size_t>(wanted / searches_.size(), 1);
            if (settings_.trials > 0) room = std::min(room, settings_.trials - known);
            for (const Candidate &candidate : search.propose(room)) {
                batch.push_back(make_trial(search.unit(), candidate, settings_.seed, settings_.build));
                owners.push_back(index);
            }
        }
        if (batch.empty()) return false;
        display_->say(fmt::format("compiling {}", counted(batch.size(), "candidate")));
        build_trials(batch, settings_.build);
        for (std::size_t i = 0; i < batch.size(); i++) {
            check_interrupt();
            if (!batch[i].failed) measure(batch[i]);
            check_interrupt(); // a measurement cut short is none
            keep(batch[i].record);
            searches_[owners[i]].learn(records_.back());
            display_->recorded(owners[i], batch[i]);
            discard_files(batch[i], settings_.build);
        }
        return true;
    }

    void measure(Trial &trial) {
        if (settings_.estimate) return estimate_trial(trial, settings_.core, settings_.build);
        run_trial(trial, settings_.runner, kRunSeconds);
        if (trial.candidate.strategy == "adams2019") model_.add_sample(trial, settings_.build);
    }

    /// Has adams2019 go by what was measured.
    void retrain() {
        const auto uses = [](const StrategyShare &share) { return share.name == "adams2019"; };
        if (std::none_of(settings_.strategies.begin(), settings_.strategies.end(), uses)) return;
        if (model_.retrain()) display_->say(fmt::format("cost model retrained: {}", model_.weights()));
        for (UnitSearch &search : searches_)
            search.set_weights(model_.weights());
    }

    /// Measures the best of a unit again, in turns.
    void hold_finals(std::size_t index) {
        UnitSearch &search = searches_[index];
        const std::string unit = search.unit().key();
        const std::vector<const TuneRecord *> all = records_of(unit);
        // Nothing is new since the last ones.
        if (all.empty() || all.back()->kind() == "final") return;
        const Judgement judgement = judge(all);
        const std::vector<const TuneRecord *> chosen = finalists(judgement);
        if (!judgement.standard || chosen.size() < 2) return;
        std::vector<Trial> trials;
        for (const TuneRecord *record : chosen) {
            trials.push_back(make_trial(search.unit(), search.candidate_of(*record), settings_.seed, settings_.build));
        }
        display_->say(fmt::format("{}: the best {} in turns", search.unit().label(), trials.size()));
        build_trials(trials, settings_.build);
        for (Trial &trial : trials)
            if (!trial.failed) measure(trial);
        std::erase_if(trials, [](const Trial &trial) { return trial.failed; });
        std::vector<std::vector<double>> turns(trials.size());
        for (int turn = 0; turn < settings_.turns; turn++) {
            for (std::size_t i = 0; i < trials.size(); i++) {
                check_interrupt();
                const std::vector<double> times = repeat_trial(trials[i], settings_.runner, kRunSeconds);
                if (!times.empty()) turns[i].push_back(*std::min_element(times.begin(), times.end()));
            }
        }
        const std::string group = stable_hash(unit + std::to_string(records_.size()) + trials.front().record.dump());
        for (std::size_t i = 0; i < trials.size(); i++) {
            if (turns[i].size() < static_cast<std::size_t>(settings_.turns)) continue;
            TuneRecord::Json &json = trials[i].record;
            json["kind"] = "final";
            json["group"] = group;
            TuneRecord::Json &result = json["result"];
            const double best = *std::min_element(turns[i].begin(), turns[i].end());
            for (const char *rate : {"gmacs", "percent_of_peak"})
                result[rate] = result[rate].get<double>() * result["time_us"].get<double>() / best;
            result["time_us"] = best;
            result["repeats_us"] = turns[i];
            keep(json);
        }
        for (const Trial &trial : trials)
            discard_files(trial, settings_.build);
    }

    void summary() const {
        std::vector<const TuneRecord *> wanted;
        std::vector<UnitRecords> units;
        for (const UnitSearch &search : searches_)
            units.push_back({search.unit().key(), records_of(search.unit().key())});
        std::erase_if(units, [](const UnitRecords &unit) { return unit.records.empty(); });
        print_tuning_summary(units, elapsed());
        fmt::print("records: {}\n", printable(settings_.records.string()));
    }

    /// Trials that all failed are no result to go on with, whatever each of them failed of.
    void fail_if_nothing_worked() const {
        const auto failed = [](const TuneRecord &record) { return !record.ok() && record.failure() != "no-estimate"; };
        if (records_.empty() || !std::all_of(records_.begin(), records_.end(), failed)) return;
        const TuneRecord &last = records_.back();
        throw Error(kExitCheckFailed, fmt::format("all trials ({}) failed, the last with {}: {}", records_.size(),
                                                  last.failure(), last.json["failure"].value("text", "")));
    }

    TuneSettings settings_;
    RecordLog log_;
    ScratchFolder work_;
    CostModel model_;
    Clock::time_point start_;
    std::deque<TuneRecord> records_; // judgements keep pointers
    std::vector<UnitSearch> searches_;
    std::unique_ptr<TuneDisplay> display_;
    std::size_t next_ = 0;
};

} // namespace

std::vector<TuneUnit> units_of(const TuneSettings &settings) {
    std::vector<TuneUnit> units;
    std::set<std::string> keys; // layers that differ in nothing but their name are tuned once
    for (const LayerSpec &layer : settings.layers)
        for (const qconv_op op : settings.ops) {
            TuneUnit unit{layer, op, settings.target, settings.threads};
            unit.layer.config.directions = direction_of(op);
            if (keys.insert(unit.key()).second) units.push_back(std::move(unit));
        }
    std::erase_if(units, [&](const TuneUnit &unit) {
        const auto place = std::distance(keys.begin(), keys.find(unit.key()));
        return static_cast<std::size_t>(place) % settings.shards != settings.shard;
    });
    return units;
}

void run_tuning(const TuneSettings &settings) {
    TuningRun(settings).run();
}

} // namespace qconv::tools
