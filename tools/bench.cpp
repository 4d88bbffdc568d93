// qconvc bench
#include "tools/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <regex>

#include "tools/bench_kernels.h"
#include "tools/commands.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/layer_file.h"
#include "tools/targets.h"
#include "tools/text.h"
#include "tools/workloads.h"

namespace qconv::tools {
namespace {

struct Options {
    std::string input; // a table or a layer file; "" for the built-in table
    std::string layer = "QConv1d";
    std::string input_quantization = "sign", weight_quantization = "sign";
    int bits = 0;
    float pad_value = -1;
    std::string target = "host";
    std::string kernels = "generic";
    std::string kernel;
    std::vector<std::string> compare;
    int threads = 1;
    int64_t batch = 0;
    std::string filter;
    double seconds = 0.2;
    int repeats = 5;
    bool every_kernel = false, json = false, serve = false;
};

const std::vector<std::string> kKernelKinds = {"generic", "specialised"};

qconv_quantizer quantizer(const std::string &text, int bits) {
    qconv_quantizer q = parse_quantizer(text);
    if (bits > 0 && text.find('(') == std::string::npos) q.bits = bits;
    return q;
}

bool is_layer_file(const std::string &path) {
    return path.size() > 5 && path.ends_with(".json");
}

std::vector<BenchRow> read_rows(const Options &o) {
    std::vector<BenchRow> rows;
    if (is_layer_file(o.input)) {
        for (const LayerSpec &spec : read_layer_file(o.input)) {
            // A layer without an estimate is timed at a width of a few tiles.
            constexpr int64_t kDefaultWidth = 1000;
            rows.push_back(
                {spec.name, spec.config, spec.batch > 0 ? spec.batch : 1, spec.width > 0 ? spec.width : kDefaultWidth});
        }
    } else {
        qconv_layer_config config;
        qconv_layer_config_init(&config, parse_layer_kind(o.layer));
        if (config.kind != QCONV_LAYER_CONV1D) {
            config.pad_value = o.pad_value;
            config.weight_quantization = quantizer(o.weight_quantization, o.bits);
        }
        if (config.kind == QCONV_LAYER_QCONV1D) config.input_quantization = quantizer(o.input_quantization, o.bits);
        for (const Workload &w : o.input.empty() ? builtin_workloads() : read_workloads(o.input)) {
            set_shape(w, config);
            rows.push_back({w.name, config, w.batch, w.width});
        }
    }
    if (o.batch > 0)
        for (BenchRow &row : rows)
            row.batch = o.batch;
    return rows;
}

std::vector<BenchRow> filter_rows(std::vector<BenchRow> rows, const std::string &filter) {
    if (filter.empty()) return rows;
    try {
        const std::regex pattern(filter);
        std::erase_if(rows, [&](const BenchRow &row) { return !std::regex_search(row.name, pattern); });
    } catch (const std::regex_error &error) {
        throw InputError(fmt::format("--filter '{}' is no regular expression: {}", filter, error.what()));
    }
    if (rows.empty()) throw InputError(fmt::format("--filter '{}' matches no row", filter));
    return rows;
}

BenchResult describe(const BenchRow &row, const TimedLayer &layer) {
    const qconv_kernel &kernel = layer.kernel();
    BenchResult r;
    r.name = row.name;
    r.kernel = kernel.name;
    r.target = kernel.target;
    r.path = kernel.path;
    if (kernel.path == QCONV_PATH_B1B1) r.planes = std::max(1, kernel.input_planes * kernel.weight_planes);
    r.macs = layer.macs();
    r.packed_bytes = layer.packed_bytes();
    return r;
}

std::unique_ptr<TimedLayer> make_layer(const BenchRow &row, const std::string &kernel) {
    qconv_layer_config config = row.config;
    config.kernel = kernel.c_str();
    return std::make_unique<TimedLayer>(config, row.batch, row.width);
}

/// Times one row with each of one or two kernels, turn by turn; the first one is reported.
BenchResult bench_row(const BenchRow &row, const std::vector<std::string> &kernels, const Options &o,
                      PeakMeter &peaks) {
    std::vector<std::unique_ptr<TimedLayer>> layers;
    size_t checked = 0;
    for (const std::string &kernel : kernels) {
        layers.push_back(make_layer(row, kernel));
        checked = layers.back()->verify();
    }
    BenchResult result = describe(row, *layers.front());
    result.outputs_checked = checked;
    std::vector<std::vector<double>> samples(layers.size());
    std::vector<int64_t> calls(layers.size());
    for (int turn = 0; turn < o.repeats && !interrupted(); turn++) {
        for (size_t i = 0; i < layers.size(); i++)
            calls[i] += sample_calls([&] { layers[i]->forward(); }, o.seconds / o.repeats, 3, samples[i]);
        peaks.sample(peak_kind(result.path));
    }
    check_interrupt(); // a row cut short is no measurement
    result.timing = summarize_samples(samples[0], calls[0]);
    if (layers.size() > 1) {
        result.compared = result.timing.median / summarize_samples(samples[1], calls[1]).median;
        result.other = layers[1]->kernel().name;
    }
    return result;
}

/// Times every other kernel that can serve the row, and notes the fastest.
void compare_with_every_kernel(const BenchRow &row, const BenchKernels &kernels, const Options &o,
                               BenchResult &result) {
    double least = result.timing.median;
    result.compared = 1;
    result.other = result.kernel;
    for (const std::string &candidate : kernels.candidates(row.config)) {
        const std::unique_ptr<TimedLayer> layer = make_layer(row, candidate);
        if (layer->kernel().name == result.kernel) continue;
        layer->verify();
        std::vector<double> samples;
        const int64_t calls = sample_calls([&] { layer->forward(); }, o.seconds / o.repeats, 3, samples);
        check_interrupt();
        const double median = summarize_samples(samples, calls).median;
        if (median >= least) continue;
        least = median;
        result.compared = result.timing.median / median;
        result.other = layer->kernel().name;
    }
}

/// On the row with the least work that was timed.
double least_call_overhead(const std::vector<BenchRow> &rows, const std::string &kind, const BenchKernels &kernels,
                           const BenchReport &report) {
    size_t least = rows.size();
    for (size_t i = 0; i < report.results.size(); i++)
        if (report.results[i].error.empty() &&
            (least == rows.size() || report.results[i].macs < report.results[least].macs))
            least = i;
    if (least == rows.size()) return 0;
    const qconv_kernel &kernel = make_layer(rows[least], kernels.choose(least, kind))->kernel();
    return measure_call_overhead(rows[least].config, kernel);
}

void bench_rows(const std::vector<BenchRow> &rows, const std::vector<std::string> &kinds, const BenchKernels &kernels,
                const Options &o, BenchReport &report, PeakMeter &peaks) {
    for (int i = 0; i < 5; i++)
        peaks.sample();
    if (!o.json) print_bench_header(report, peaks);
    for (size_t i = 0; i < rows.size(); i++) {
        try {
            std::vector<std::string> chosen;
            for (const std::string &kind : kinds)
                chosen.push_back(kernels.choose(i, kind));
            BenchResult result = bench_row(rows[i], chosen, o, peaks);
            if (o.every_kernel) compare_with_every_kernel(rows[i], kernels, o, result);
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
        if (!o.json) print_bench_row(report.results.back(), peaks, report.threads);
    }
    if (report.complete) report.overhead_us = least_call_overhead(rows, kinds[0], kernels, report);
}

/// One request a line, {"row": number, "seconds": 0.1}; one answer a line. The layer of the last row is kept, so that a
/// caller can interleave turns of its own.
void serve(const std::vector<BenchRow> &rows, const std::string &kind, const BenchKernels &kernels, PeakMeter &peaks) {
    std::unique_ptr<TimedLayer> layer;
    size_t current = rows.size(), checked = 0;
    for (std::string line; std::getline(std::cin, line) && !interrupted();) {
        nlohmann::json answer;
        try {
            const nlohmann::json request = nlohmann::json::parse(line);
            const size_t row = request.at("row");
            if (row >= rows.size()) throw InputError(fmt::format("row {}: allowed: 0 to {}", row, rows.size() - 1));
            if (row != current) {
                layer.reset();
                current = rows.size();
                layer = make_layer(rows[row], kernels.choose(row, kind));
                checked = layer->verify();
                current = row;
            }
            std::vector<double> samples;
            BenchResult result = describe(rows[row], *layer);
            peaks.sample(peak_kind(result.path));
            const int64_t calls = sample_calls([&] { layer->forward(); }, request.value("seconds", 0.1), 3, samples);
            result.timing = summarize_samples(samples, calls);
            result.outputs_checked = checked;
            answer = bench_row_json(result, peaks, 1);
            answer["row"] = row;
        } catch (const std::exception &error) {
            answer = {{"error", error.what()}};
        }
        std::cout << answer.dump() << std::endl;
    }
}

void bench(const Options &o) {
    const std::vector<TargetInfo> targets = find_targets({o.target});
    if (targets.size() != 1) throw InputError("--target: bench takes one target");
    const TargetInfo &target = targets[0];
    require_cpu_support(target);
    std::vector<BenchRow> rows = read_rows(o);
    if (!o.serve) rows = filter_rows(std::move(rows), o.filter);
    std::vector<std::string> kinds = o.compare.empty() ? std::vector<std::string>{o.kernels} : o.compare;
    if (kinds.size() > 2 || (kinds.size() == 2 && kinds[0] == kinds[1]))
        throw InputError("--compare: allowed: generic,specialised or specialised,generic");

    const BenchKernels kernels(target, rows, kinds, o.kernel);
    BenchReport report;
    report.threads = o.threads;
    if (kinds.size() == 2) report.compared = kinds[0] + " / " + kinds[1];
    if (o.every_kernel) report.compared = "chosen / best";
    if (qconv_set_num_threads(o.threads) != QCONV_OK) throw InputError(std::string("--threads: ") + qconv_last_error());
    if (o.threads == 1) report.cpu = pin_to_one_cpu();
    PeakMeter peaks(target.name);
    if (o.serve) return serve(rows, kinds[0], kernels, peaks);

    bench_rows(rows, kinds, kernels, o, report, peaks);
    if (o.json) {
        fmt::print("{}\n", bench_json(report, peaks).dump(2));
    } else {
        print_bench_summary(report, peaks);
    }
    const auto failed = std::count_if(report.results.begin(), report.results.end(),
                                      [](const BenchResult &r) { return !r.error.empty(); });
    if (failed > 0) throw Error(kExitCheckFailed, fmt::format("bench: {} rows failed", failed));
}

} // namespace

void add_bench_command(CLI::App &app) {
    auto o = std::make_shared<Options>();
    CLI::App *command = app.add_subcommand("bench", "Time layers, as GMAC/s and as percent of this core's peak");
    command->add_option("input", o->input, "Workload table (.csv) or layer file (.json); default: the built-in table");
    command->add_option("--layer", o->layer, "Layer of the table's rows: QConv1d, QConv1d_NoAct, conv1d")
        ->capture_default_str();
    command->add_option("--input-quantization", o->input_quantization, "A quantizer, for instance 'inputdorefa(2)'")
        ->capture_default_str();
    command->add_option("--weight-quantization", o->weight_quantization)->capture_default_str();
    command->add_option("--bits", o->bits, "Bits of the DoReFa quantizers that name none")->check(CLI::Range(1, 8));
    command->add_option("--pad-value", o->pad_value)->capture_default_str();
    command->add_option("-t,--target", o->target, "host, sse41, avx2, avx512, avx512_zen4")->capture_default_str();
    command->add_option("--kernels", o->kernels, "generic, or specialised: compiled for each row first")
        ->check(CLI::IsMember(kKernelKinds))
        ->capture_default_str();
    command->add_option("--compare", o->compare, "Two kinds turn by turn: generic,specialised")
        ->delimiter(',')
        ->check(CLI::IsMember(kKernelKinds))
        ->excludes("--kernels");
    command->add_option("--kernel", o->kernel,
                        "The one generic kernel to use (qconvc list kernels); default: the best");
    command
        ->add_flag("--every-kernel", o->every_kernel,
                   "Time every kernel that serves a row: shows what the choice among them costs")
        ->excludes("--compare");
    command->add_option("--threads", o->threads)->check(CLI::Range(1, 1024))->capture_default_str();
    command->add_option("--batch", o->batch, "Batch of every row; default: the row's")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
    command->add_option("--filter", o->filter, "Only rows whose name matches this regular expression");
    command->add_option("--min-time", o->seconds, "Seconds of timing a row")
        ->check(CLI::Range(0.0, 3600.0))
        ->capture_default_str();
    command->add_option("--repeats", o->repeats, "Turns that make them up, the peak measured between")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    command->add_flag("--json", o->json, "Print one JSON object at the end");
    command->add_flag("--serve", o->serve, "Answer {\"row\": 0, \"seconds\": 0.1} on standard input, a JSON line each")
        ->excludes("--compare")
        ->excludes("--every-kernel")
        ->excludes("--filter");
    command->footer(
        "Every row is checked against the oracle before it is timed. Ctrl-C prints what was measured.\n\n"
        "Examples:\n"
        "  qconvc bench\n"
        "  qconvc bench --filter 'wav2vec2|Jasper' --target avx2\n"
        "  qconvc bench --input-quantization 'inputdorefa(4)' --weight-quantization 'weightdorefa(4)'\n"
        "  qconvc bench net.json --compare generic,specialised --json");
    command->callback([o] { bench(*o); });
}

} // namespace qconv::tools
