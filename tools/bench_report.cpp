#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/bench.h"

namespace qconv::tools {
namespace {

double peak_of(const BenchResult &r, const PeakMeter &peaks, int threads) {
    return peaks.median(peak_kind(r.path)) * threads;
}

double percent(const BenchResult &r, const PeakMeter &peaks, int threads) {
    return r.percent_of(peak_of(r, peaks, threads));
}

std::vector<const BenchResult *> timed(const BenchReport &report) {
    std::vector<const BenchResult *> rows;
    for (const BenchResult &r : report.results)
        if (r.error.empty()) rows.push_back(&r);
    return rows;
}

template <typename Value>
double geometric_mean(const std::vector<const BenchResult *> &rows, const Value &value) {
    double sum = 0;
    for (const BenchResult *r : rows)
        sum += std::log(value(*r));
    return rows.empty() ? 0 : std::exp(sum / static_cast<double>(rows.size()));
}

constexpr size_t kWorstRows = 5;

} // namespace

void print_bench_header(const BenchReport &report, const PeakMeter &peaks) {
    fmt::print("{} thread{}{}, target {}\n", report.threads, report.threads == 1 ? "" : "s",
               report.cpu >= 0 ? fmt::format(" on CPU {}", report.cpu) : "", peaks.target());
    fmt::print("{:<38} {:<30} {:>11} {:>11} {:>6} {:>8} {:>6}{}\n", "layer", "kernel", "median us", "least us", "p90",
               "GMAC/s", "% peak", report.compared.empty() ? "" : "  " + report.compared);
}

void print_bench_row(const BenchResult &r, const PeakMeter &peaks, int threads) {
    if (!r.error.empty()) {
        fmt::print("{:<38} {}\n", r.name, r.error);
    } else {
        fmt::print("{:<38} {:<30} {:>11.2f} {:>11.2f} {:>5.2f}x {:>8.1f} {:>6.1f}{}\n", r.name, r.kernel,
                   r.timing.median, r.timing.least, r.timing.spread, r.gmacs(), percent(r, peaks, threads),
                   r.compared > 0 ? fmt::format("  {:.2f} {}", r.compared, r.other) : "");
    }
    std::fflush(stdout);
}

void print_bench_summary(const BenchReport &report, const PeakMeter &peaks) {
    const std::vector<const BenchResult *> rows = timed(report);
    const auto percent_now = [&](const BenchResult &r) { return percent(r, peaks, report.threads); };
    fmt::print("\n{} of {} rows timed{}; every one was checked against the oracle first\n", rows.size(),
               report.results.size(), report.complete ? "" : ", then interrupted");
    if (rows.empty()) return;
    fmt::print("geometric mean: {:.1f} GMAC/s, {:.1f}% of peak\n",
               geometric_mean(rows, [](const BenchResult &r) { return r.gmacs(); }), geometric_mean(rows, percent_now));
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
        fmt::print("\na call costs {:.2f} us beyond its kernel, on the row with the least work", report.overhead_us);
    fmt::print("\npeaks of one core, measured between the rows (median, best, samples):\n");
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
    json["kernel"] = r.kernel;
    json["target"] = r.target;
    json["path"] = qconv_path_name(r.path);
    json["macs"] = r.macs;
    json["median_us"] = r.timing.median;
    json["min_us"] = r.timing.least;
    json["spread"] = r.timing.spread;
    json["calls"] = r.timing.calls;
    json["gmacs"] = r.gmacs();
    json["peak_kind"] = peak_name(peak_kind(r.path));
    // The peak in MACs of this layer: a product of several bit-planes costs as many steps.
    json["peak_gmacs"] = peak_of(r, peaks, threads) / r.planes / 1e9;
    json["percent_of_peak"] = percent(r, peaks, threads);
    json["percent_of_best_peak"] = r.percent_of(peaks.best(peak_kind(r.path)) * threads);
    json["outputs_checked"] = r.outputs_checked;
    json["packed_bytes"] = r.packed_bytes;
    if (r.compared > 0) {
        json["compared"] = r.compared;
        json["other_kernel"] = r.other;
    }
    return json;
}

nlohmann::json bench_json(const BenchReport &report, const PeakMeter &peaks) {
    const std::vector<const BenchResult *> rows = timed(report);
    nlohmann::json json = {{"threads", report.threads},       {"cpu", report.cpu},
                           {"target", peaks.target()},        {"complete", report.complete},
                           {"rows", nlohmann::json::array()}, {"peaks", nlohmann::json::object()}};
    for (const BenchResult &r : report.results)
        json["rows"].push_back(bench_row_json(r, peaks, report.threads));
    for (int k = 0; k < static_cast<int>(PeakKind::Kinds); k++) {
        const auto kind = static_cast<PeakKind>(k);
        if (peaks.samples(kind) == 0) continue;
        json["peaks"][peak_name(kind)] = {{"median_gmacs", peaks.median(kind) / 1e9},
                                          {"best_gmacs", peaks.best(kind) / 1e9},
                                          {"samples", peaks.samples(kind)},
                                          {"instructions", peak_instructions(kind, peaks.target())}};
    }
    if (!rows.empty()) {
        json["geometric_mean_gmacs"] = geometric_mean(rows, [](const BenchResult &r) { return r.gmacs(); });
        json["geometric_mean_percent"] =
            geometric_mean(rows, [&](const BenchResult &r) { return percent(r, peaks, report.threads); });
    }
    if (report.overhead_us > 0) json["call_overhead_us"] = report.overhead_us;
    if (!report.compared.empty()) json["compared"] = report.compared;
    return json;
}

} // namespace qconv::tools
