#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "tools/bench.h"
#include "tools/directions.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

/// MACs per second of the row if each part ran at its peak, `peak` of a kind being one core's.
template <typename Peak>
double ideal(const BenchResult &r, const Peak &peak, int threads) {
    double seconds = 0;
    for (const BenchPart &part : r.parts) {
        const double rate = peak(peak_kind(part.path)) * threads;
        if (rate <= 0) return 0;
        seconds += part.macs * part.planes / rate;
    }
    return seconds > 0 ? r.macs() / seconds : 0;
}

double median_ideal(const BenchResult &r, const PeakMeter &peaks, int threads) {
    return ideal(r, [&](PeakKind kind) { return peaks.median(kind); }, threads);
}

double percent_of(const BenchResult &r, double macs_per_second) {
    return macs_per_second > 0 ? 100 * r.gmacs() * 1e9 / macs_per_second : 0;
}

/// Values of the parts, "a + b + c"; one of them where all agree.
template <typename Value>
std::string joined(const BenchResult &r, const Value &value) {
    std::vector<std::string> values;
    for (const BenchPart &part : r.parts)
        values.push_back(value(part));
    if (std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end()) values.resize(1);
    return join(values, " + ");
}

std::string paths(const BenchResult &r) {
    return joined(r, [](const BenchPart &part) { return std::string(qconv_path_name(part.path)); });
}

std::vector<const BenchResult *> timed(const BenchReport &report) {
    std::vector<const BenchResult *> rows;
    for (const BenchResult &r : report.results)
        if (r.error.empty()) rows.push_back(&r);
    return rows;
}

constexpr size_t kWorstRows = 5;

/// "forward", or what a step is made of.
std::string described(const BenchWork &work) {
    return work_name(work) + (is_step(work) ? ": forward_training, backward with all gradients, set_weights" : "");
}

/// What a step packs and keeps, over all rows.
void print_step_summary(const std::vector<const BenchResult *> &rows) {
    const auto most = std::max_element(rows.begin(), rows.end(),
                                       [](auto *a, auto *b) { return a->packing_percent() < b->packing_percent(); });
    fmt::print("packing the weights anew: {:.1f}% of a step (geometric mean), most {:.1f}% ({})\n",
               geometric_mean(rows, [](const BenchResult &r) { return r.packing_percent(); }),
               (*most)->packing_percent(), (*most)->name);
    size_t saved = 0, input = 0;
    for (const BenchResult *r : rows)
        saved += r->saved_bytes(), input += r->input_bytes;
    fmt::print("kept from forward for backward: {} where the float inputs take {}\n", human_bytes(saved),
               human_bytes(input));
}

const char *saved_name(qconv_saved saved) {
    switch (saved) {
        case QCONV_SAVES_STATE:
            return "state";
        case QCONV_SAVES_INPUT:
            return "input";
        default:
            return "nothing";
    }
}

} // namespace

double percent_of_peak(const BenchResult &result, const PeakMeter &peaks, int threads) {
    return percent_of(result, median_ideal(result, peaks, threads));
}

double BenchResult::macs() const {
    return std::accumulate(parts.begin(), parts.end(), 0.0,
                           [](double sum, const BenchPart &part) { return sum + part.macs; });
}

std::string BenchResult::kernels() const {
    return joined(*this, [](const BenchPart &part) { return part.kernel; });
}

size_t BenchResult::saved_bytes() const {
    return saved == QCONV_SAVES_INPUT ? input_bytes : state_bytes;
}

void print_bench_header(const BenchReport &report, const PeakMeter &peaks) {
    fmt::print("{}, {} thread{}{}, target {}\n", described(report.work), report.threads, report.threads == 1 ? "" : "s",
               report.cpu >= 0 ? fmt::format(" on CPU {}", report.cpu) : "", peaks.target());
    const bool step = is_step(report.work);
    fmt::print("{:<38} {:<30} {:>11} {:>11} {:>6} {:>8} {:>6}{}{}\n", "layer", step ? "paths" : "kernel", "median us",
               "least us", "p90", "GMAC/s", "% peak", step ? " pack %  saved" : "",
               report.compared.empty() ? "" : "  " + report.compared);
}

void print_bench_row(const BenchReport &report, const BenchResult &r, const PeakMeter &peaks) {
    if (!r.error.empty()) {
        fmt::print("{:<38} {}\n", r.name, r.error);
    } else {
        const bool step = is_step(report.work);
        fmt::print("{:<38} {:<30} {:>11.2f} {:>11.2f} {:>5.2f}x {:>8.1f} {:>6.1f}", r.name,
                   step ? paths(r) : r.kernels(), r.timing.median, r.timing.least, r.timing.spread, r.gmacs(),
                   percent_of_peak(r, peaks, report.threads));
        if (step)
            fmt::print(" {:>6.1f} {:>5.1f}%", r.packing_percent(),
                       100 * static_cast<double>(r.saved_bytes()) / static_cast<double>(r.input_bytes));
        if (r.compared > 0) fmt::print("  {:.2f} {}", r.compared, r.other);
        fmt::print("\n");
    }
    std::fflush(stdout);
}

void print_bench_summary(const BenchReport &report, const PeakMeter &peaks) {
    const std::vector<const BenchResult *> rows = timed(report);
    const auto percent_now = [&](const BenchResult &r) { return percent_of_peak(r, peaks, report.threads); };
    fmt::print("\n{} of {} rows timed{}; every one was checked against the oracle first\n", rows.size(),
               report.results.size(), report.complete ? "" : ", then interrupted");
    if (rows.empty()) return;
    fmt::print("geometric mean: {:.1f} GMAC/s, {:.1f}% of peak\n",
               geometric_mean(rows, [](const BenchResult &r) { return r.gmacs(); }), geometric_mean(rows, percent_now));
    if (is_step(report.work)) print_step_summary(rows);
    if (!report.compared.empty()) {
        std::vector<const BenchResult *> both;
        std::copy_if(rows.begin(), rows.end(), std::back_inserter(both), [](auto *r) { return r->compared > 0; });
        const auto ratio = [](const BenchResult &r) { return r.compared; };
        const auto worst =
            std::max_element(both.begin(), both.end(), [](auto *a, auto *b) { return a->compared < b->compared; });
        if (!both.empty())
            fmt::print("time {}: geometric mean {:.2f}, most {:.2f} ({})\n", report.compared,
                       geometric_mean(both, ratio), (*worst)->compared, (*worst)->name);
    }
    std::vector<const BenchResult *> worst = rows;
    std::sort(worst.begin(), worst.end(), [&](auto *a, auto *b) { return percent_now(*a) < percent_now(*b); });
    worst.resize(std::min(worst.size(), kWorstRows));
    fmt::print("least of peak:");
    for (const BenchResult *r : worst)
        fmt::print("  {} {:.1f}%", r->name, percent_now(*r));
    if (report.overhead_us > 0)
        fmt::print("\na call costs {:.2f} us beyond its kernel{}, on the row with the least work", report.overhead_us,
                   is_step(report.work) ? "s and packing" : "");
    fmt::print("\n");
    print_peaks(peaks);
}

void print_peaks(const PeakMeter &peaks) {
    fmt::print("peaks of one core, measured between the rows (median, best, samples):\n");
    for (int k = 0; k < static_cast<int>(PeakKind::Kinds); k++) {
        const auto kind = static_cast<PeakKind>(k);
        if (peaks.samples(kind) == 0) continue;
        fmt::print("  {:<9} {:>7.1f} {:>7.1f} GMAC/s {:>5}   {}\n", peak_name(kind), peaks.median(kind) / 1e9,
                   peaks.best(kind) / 1e9, peaks.samples(kind), peak_instructions(kind, peaks.target()));
    }
}

nlohmann::json bench_row_json(const BenchResult &r, const PeakMeter &peaks, int threads) {
    nlohmann::json json = {{"name", r.name}};
    if (!r.error.empty()) {
        json["error"] = r.error;
        return json;
    }
    const auto best = [&](PeakKind kind) { return peaks.best(kind); };
    json["kernel"] = r.kernels();
    json["target"] = r.target;
    json["path"] = paths(r);
    json["macs"] = r.macs();
    json["median_us"] = r.timing.median;
    json["min_us"] = r.timing.least;
    json["spread"] = r.timing.spread;
    json["calls"] = r.timing.calls;
    json["gmacs"] = r.gmacs();
    json["peak_kind"] = joined(r, [](const BenchPart &part) { return std::string(peak_name(peak_kind(part.path))); });
    // The peak in MACs of this layer: a product of several bit-planes costs as many steps.
    json["peak_gmacs"] = median_ideal(r, peaks, threads) / 1e9;
    json["percent_of_peak"] = percent_of_peak(r, peaks, threads);
    json["percent_of_best_peak"] = percent_of(r, ideal(r, best, threads));
    json["outputs_checked"] = r.outputs_checked;
    json["packed_bytes"] = r.packed_bytes;
    if (r.parts.size() > 1) {
        for (const BenchPart &part : r.parts)
            json["parts"][qconv_op_name(part.op)] = {{"kernel", part.kernel}, {"path", qconv_path_name(part.path)}};
        json["packing_us"] = r.packing;
        json["packing_percent"] = r.packing_percent();
        json["saved"] = saved_name(r.saved);
        json["saved_bytes"] = r.saved_bytes();
        json["input_bytes"] = r.input_bytes;
    }
    if (r.compared > 0) {
        json["compared"] = r.compared;
        if (r.compared_least > 0) json["compared_least"] = r.compared_least;
        json["other_kernel"] = r.other;
    }
    return json;
}

nlohmann::json peaks_json(const PeakMeter &peaks) {
    nlohmann::json json = nlohmann::json::object();
    for (int k = 0; k < static_cast<int>(PeakKind::Kinds); k++) {
        const auto kind = static_cast<PeakKind>(k);
        if (peaks.samples(kind) == 0) continue;
        json[peak_name(kind)] = {{"median_gmacs", peaks.median(kind) / 1e9},
                                 {"best_gmacs", peaks.best(kind) / 1e9},
                                 {"samples", peaks.samples(kind)},
                                 {"instructions", peak_instructions(kind, peaks.target())}};
    }
    return json;
}

nlohmann::json bench_json(const BenchReport &report, const PeakMeter &peaks) {
    const std::vector<const BenchResult *> rows = timed(report);
    nlohmann::json json = {{"direction", work_name(report.work)},
                           {"threads", report.threads},
                           {"cpu", report.cpu},
                           {"target", peaks.target()},
                           {"complete", report.complete},
                           {"rows", nlohmann::json::array()},
                           {"peaks", peaks_json(peaks)}};
    for (const BenchResult &r : report.results)
        json["rows"].push_back(bench_row_json(r, peaks, report.threads));
    if (!rows.empty()) {
        json["geometric_mean_gmacs"] = geometric_mean(rows, [](const BenchResult &r) { return r.gmacs(); });
        json["geometric_mean_percent"] =
            geometric_mean(rows, [&](const BenchResult &r) { return percent_of_peak(r, peaks, report.threads); });
    }
    if (report.overhead_us > 0) json["call_overhead_us"] = report.overhead_us;
    if (!report.compared.empty()) json["compared"] = report.compared;
    return json;
}

} // namespace qconv::tools
