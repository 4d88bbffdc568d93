#include "tools/bench_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <optional>

#include "tools/errors.h"
#include "tools/files.h"
#include "tools/layer_file.h"

namespace qconv::tools {
namespace {

BenchResult describe(const BenchRow &row, const TimedLayer &layer, const BenchWork &work) {
    const LayerRun &run = layer.run();
    BenchResult r;
    r.name = row.name;
    for (const qconv_op op : work) {
        const qconv_kernel &kernel = run.kernel(op);
        r.target = kernel.target;
        BenchPart &part = r.parts.emplace_back();
        part.op = op;
        part.kernel = kernel.name;
        part.path = kernel.path;
        if (kernel.path == QCONV_PATH_B1B1) part.planes = std::max(1, kernel.input_planes * kernel.weight_planes);
        part.macs = run.macs();
    }
    r.packed_bytes = run.packed_bytes();
    r.saved = run.saved();
    r.state_bytes = run.state_bytes();
    r.input_bytes = run.data().x.size() * sizeof(float);
    return r;
}

std::unique_ptr<TimedLayer> make_layer(const BenchRow &row, const BenchWork &work, const KernelChoice &kernels) {
    return std::make_unique<TimedLayer>(row.config, row.batch, row.width, work, kernels);
}

void sample_peaks(const BenchResult &result, PeakMeter &peaks) {
    std::vector<PeakKind> seen;
    for (const BenchPart &part : result.parts) {
        const PeakKind kind = peak_kind(part.path);
        if (std::find(seen.begin(), seen.end(), kind) != seen.end()) continue;
        peaks.sample(kind);
        seen.push_back(kind);
    }
}

/// Calls that take turns, each for a part of the time.
class Turns {
public:
    void add(std::function<void()> call) { turns_.push_back({std::move(call), {}, 0}); }
    void take(double seconds) {
        for (Turn &turn : turns_)
            turn.calls += sample_calls(turn.call, seconds, 3, turn.samples);
    }
    Timing timing(size_t index) const { return summarize_samples(turns_[index].samples, turns_[index].calls); }

private:
    struct Turn {
        std::function<void()> call;
        std::vector<double> samples;
        int64_t calls;
    };
    std::vector<Turn> turns_;
};

/// Times one row with each of one or two choices of kernels.
BenchResult bench_row(const BenchRow &row, const std::vector<KernelChoice> &choices, const BenchSettings &settings,
                      const BenchWork &work, PeakMeter &peaks) {
    std::vector<CheckedLayer> layers;
    for (const KernelChoice &choice : choices)
        layers.emplace_back(row, work, choice);
    return time_layer(row, layers[0], layers.size() > 1 ? &layers[1] : nullptr, settings, work, peaks);
}

/// Times every other kernel that can serve the row, and notes the fastest.
void compare_with_every_kernel(const BenchRow &row, const BenchKernels &kernels, const BenchSettings &settings,
                               const BenchWork &work, BenchResult &result) {
    double least = result.timing.median;
    result.compared = 1;
    result.other = result.kernels();
    for (const std::string &candidate : kernels.candidates(row.config)) {
        const std::unique_ptr<TimedLayer> layer = make_layer(row, work, {{work.front(), candidate}});
        if (layer->run().kernel(work.front()).name == result.kernels()) continue;
        layer->verify();
        std::vector<double> samples;
        const int64_t calls = sample_calls([&] { layer->call(); }, settings.seconds / settings.repeats, 3, samples);
        check_interrupt();
        const double median = summarize_samples(samples, calls).median;
        if (median >= least) continue;
        least = median;
        result.compared = result.timing.median / median;
        result.other = layer->run().kernel(work.front()).name;
    }
}

/// On the row with the least work that was timed.
double least_call_overhead(const std::vector<BenchRow> &rows, const std::string &kind, const BenchKernels &kernels,
                           const BenchReport &report) {
    size_t least = rows.size();
    for (size_t i = 0; i < report.results.size(); i++)
        if (report.results[i].error.empty() &&
            (least == rows.size() || report.results[i].macs() < report.results[least].macs()))
            least = i;
    if (least == rows.size()) return 0;
    const auto layer = make_layer(rows[least], report.work, kernels.choose(least, kind));
    std::vector<const qconv_kernel *> used;
    for (const qconv_op op : report.work)
        used.push_back(&layer->run().kernel(op));
    return measure_call_overhead(rows[least].config, report.work, used);
}

} // namespace

qconv_quantizer timed_quantizer(const std::string &text, const BenchWork &work) {
    qconv_quantizer quantizer = parse_quantizer(text);
    if (quantizer.kind == QCONV_PROGRESSIVE_SIGN) quantizer.training = work != BenchWork{QCONV_OP_FORWARD};
    return quantizer;
}

CheckedLayer::CheckedLayer(const BenchRow &row, const BenchWork &work, const KernelChoice &kernels)
    : layer(make_layer(row, work, kernels)), outputs_checked(layer->verify()) {}

BenchResult time_layer(const BenchRow &row, const CheckedLayer &timed, const CheckedLayer *other,
                       const BenchSettings &settings, const BenchWork &work, PeakMeter &peaks) {
    Turns turns;
    turns.add([&] { timed.layer->call(); });
    if (other) turns.add([&] { other->layer->call(); });
    if (is_step(work)) turns.add([&] { timed.layer->pack(); });
    BenchResult result = describe(row, *timed.layer, work);
    result.outputs_checked = timed.outputs_checked;
    for (int turn = 0; turn < settings.repeats && !interrupted(); turn++) {
        turns.take(settings.seconds / settings.repeats);
        sample_peaks(result, peaks);
    }
    check_interrupt(); // a row cut short is no measurement
    result.timing = turns.timing(0);
    if (is_step(work)) result.packing = turns.timing(other ? 2 : 1).median;
    if (other) {
        result.compared = result.timing.median / turns.timing(1).median;
        result.compared_least = result.timing.least / turns.timing(1).least;
        result.other = describe(row, *other->layer, work).kernels();
    }
    return result;
}

void bench_rows(const std::vector<BenchRow> &rows, const BenchSettings &settings, const BenchKernels &kernels,
                BenchReport &report, PeakMeter &peaks) {
    for (int i = 0; i < 5; i++)
        peaks.sample();
    if (!settings.json) print_bench_header(report, peaks);
    for (size_t i = 0; i < rows.size(); i++) {
        try {
            std::vector<KernelChoice> chosen;
            for (const std::string &kind : settings.kinds)
                chosen.push_back(kernels.choose(i, kind));
            BenchResult result = bench_row(rows[i], chosen, settings, report.work, peaks);
            if (settings.every_kernel) compare_with_every_kernel(rows[i], kernels, settings, report.work, result);
            report.results.push_back(std::move(result));
        } catch (const Interrupted &) {
            report.complete = false;
            break;
        } catch (const Error &error) {
            // The other rows still count; the exit code tells.
            report.results.push_back({});
            report.results.back().name = rows[i].name;
            report.results.back().error = error.what();
        }
        if (!settings.json) print_bench_row(report, report.results.back(), peaks);
    }
    if (report.complete) report.overhead_us = least_call_overhead(rows, settings.kinds[0], kernels, report);
}

void serve_rows(const std::vector<BenchRow> &rows, const std::string &kind, const BenchKernels &kernels,
                const BenchReport &report, PeakMeter &peaks) {
    std::optional<CheckedLayer> checked;
    size_t current = rows.size();
    for (std::string line; std::getline(std::cin, line) && !interrupted();) {
        nlohmann::json answer;
        try {
            const nlohmann::json request = nlohmann::json::parse(line);
            const size_t row = request.at("row");
            if (row >= rows.size()) throw InputError(fmt::format("row {}: allowed: 0 to {}", row, rows.size() - 1));
            if (row != current) {
                checked.reset();
                current = rows.size();
                checked.emplace(rows[row], report.work, kernels.choose(row, kind));
                current = row;
            }
            TimedLayer &layer = *checked->layer;
            BenchResult result = describe(rows[row], layer, report.work);
            sample_peaks(result, peaks);
            const double seconds = request.value("seconds", 0.1);
            std::vector<double> samples, packing;
            const int64_t calls = sample_calls([&] { layer.call(); }, seconds, 3, samples);
            result.timing = summarize_samples(samples, calls);
            if (is_step(report.work)) {
                sample_calls([&] { layer.pack(); }, seconds / 10, 3, packing);
                result.packing = summarize_samples(packing, 0).median;
            }
            result.outputs_checked = checked->outputs_checked;
            answer = bench_row_json(result, peaks, report.threads);
            answer["row"] = row;
        } catch (const std::exception &error) {
            answer = {{"error", error.what()}};
        }
        std::cout << answer.dump() << '\n' << std::flush;
    }
}

} // namespace qconv::tools
