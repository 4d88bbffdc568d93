#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "tools/bench_matrix.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

constexpr int kNameWidth = 17, kCellWidth = 17;
constexpr size_t kWorstPairs = 5;

using Results = std::vector<const BenchResult *>;

double ratio(const BenchResult &result) {
    return result.compared_least;
}

/// The first few in the order of `value`, each with it and its unit.
template <typename Value>
std::string first_few(Results results, const Value &value, bool most, const char *unit) {
    std::sort(results.begin(), results.end(),
              [&](auto *a, auto *b) { return most ? value(*a) > value(*b) : value(*a) < value(*b); });
    results.resize(std::min(results.size(), kWorstPairs));
    std::vector<std::string> words;
    for (const BenchResult *result : results)
        words.push_back(fmt::format("{} {:.2f}{}", result->name, value(*result), unit));
    return join(words);
}

void print_work_summary(const BenchWork &work, const Results &all, const Results &binary, const PeakMeter &peaks,
                        int threads) {
    const auto percent = [&](const BenchResult &result) { return percent_of_peak(result, peaks, threads); };
    if (all.empty()) return;
    fmt::print("{}: {:.2f} times sign/sign (geometric mean), {:.1f}% of peak\n", work_name(work),
               geometric_mean(all, ratio), geometric_mean(all, percent));
    if (!binary.empty())
        fmt::print("  {}: {:.2f} times sign/sign (geometric mean); most {}\n", counted(binary.size(), "binary pair"),
                   geometric_mean(binary, ratio), first_few(binary, ratio, true, "x"));
    fmt::print("  most: {}\n", first_few(all, ratio, true, "x"));
    fmt::print("  least of peak: {}\n", first_few(all, percent, false, "%"));
}

} // namespace

void print_matrix_header(const MatrixReport &report, const std::string &row, const BenchWork &work,
                         const PeakMeter &peaks) {
    fmt::print("{}{}, {}: least us, times sign/sign; {}{}, target {}\n", report.cells.empty() ? "" : "\n", row,
               work_name(work), counted(static_cast<size_t>(report.threads), "thread"),
               report.cpu >= 0 ? fmt::format(" on CPU {}", report.cpu) : "", peaks.target());
    fmt::print("{:<{}}", "input \\ weight", kNameWidth);
    for (const std::string &weight : report.matrix.weights)
        fmt::print("{:>{}}", weight, kCellWidth);
    fmt::print("\n");
    std::fflush(stdout);
}

void print_matrix_line(const std::vector<MatrixCell> &cells, size_t first) {
    fmt::print("{:<{}}", cells[first].input, kNameWidth);
    for (size_t i = first; i < cells.size(); i++) {
        const BenchResult &result = cells[i].result;
        const int decimals = result.timing.least < 1000 ? 1 : 0;
        const std::string text = result.error.empty()
                                     ? fmt::format("{:.{}f} {:5.2f}", result.timing.least, decimals, ratio(result))
                                     : "failed";
        fmt::print("{:>{}}", text, kCellWidth);
    }
    fmt::print("\n");
    std::fflush(stdout);
}

void print_matrix_summary(const MatrixReport &report, const PeakMeter &peaks) {
    const bool complete = report.cells.size() == report.wanted;
    fmt::print("\n{} of {} pairs timed{}; every one was checked against the oracle first\n",
               report.cells.size() - report.failed(), report.wanted, complete ? "" : ", then interrupted");
    for (const MatrixCell &cell : report.cells)
        if (!cell.result.error.empty())
            fmt::print("failed: {}, {}: {}\n", cell.result.name, work_name(cell.work), cell.result.error);
    for (const BenchWork &work : report.works) {
        Results all, binary;
        for (const MatrixCell &cell : report.cells) {
            if (cell.work != work || !cell.result.error.empty()) continue;
            all.push_back(&cell.result);
            if (cell.binary) binary.push_back(&cell.result);
        }
        print_work_summary(work, all, binary, peaks, report.threads);
    }
    print_peaks(peaks);
}

nlohmann::json matrix_json(const MatrixReport &report, const PeakMeter &peaks) {
    nlohmann::json json = {{"threads", report.threads},      {"cpu", report.cpu},
                           {"target", peaks.target()},       {"complete", report.cells.size() == report.wanted},
                           {"compared", "pair / sign/sign"}, {"cells", nlohmann::json::array()},
                           {"peaks", peaks_json(peaks)}};
    for (const MatrixCell &cell : report.cells) {
        nlohmann::json one = bench_row_json(cell.result, peaks, report.threads);
        one["row"] = cell.row;
        one["direction"] = work_name(cell.work);
        one["input_quantization"] = cell.input;
        one["weight_quantization"] = cell.weight;
        one["binary"] = cell.binary;
        json["cells"].push_back(std::move(one));
    }
    return json;
}

} // namespace qconv::tools
