// qconvc bench
#include "tools/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <regex>

#include "tools/bench_kernels.h"
#include "tools/bench_matrix.h"
#include "tools/bench_rows.h"
#include "tools/commands.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/layer_file.h"
#include "tools/targets.h"
#include "tools/workloads.h"

namespace qconv::tools {
namespace {

struct Options {
    std::string input; // a table or a layer file; "" for the built-in table
    std::string layer = "QConv1d";
    std::string input_quantization = "sign", weight_quantization = "sign", threshold = "none";
    int bits = 0;
    float pad_value = -1;
    std::string target = "host";
    std::string kernels = "generic";
    std::string kernel;
    std::vector<std::string> compare;
    int threads = 1;
    int64_t batch = 0;
    std::string filter;
    std::string direction = "forward";
    BenchSettings settings;
    bool serve = false, matrix = false;
    std::vector<BenchWork> works; // one, but for a matrix
};

// A pair of a matrix is timed briefly, as there are hundreds of them.
constexpr double kMatrixSeconds = 0.06;
constexpr int kMatrixRepeats = 3;

const std::vector<std::string> kKernelKinds = {"generic", "specialised"};

qconv_quantizer quantizer(const std::string &text, const Options &o) {
    qconv_quantizer q = timed_quantizer(text, o.works.front());
    if (o.bits > 0 && text.find('(') == std::string::npos) q.bits = o.bits;
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
            config.weight_quantization = quantizer(o.weight_quantization, o);
        }
        if (config.kind == QCONV_LAYER_QCONV1D) {
            config.input_quantization = quantizer(o.input_quantization, o);
            config.gradient_cancellation_threshold = parse_threshold(o.threshold);
        }
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

/// What depends on other options.
void choose_defaults(Options &o, const CLI::App &command) {
    const auto matrix_default = [&](const char *option) { return o.matrix && command.count(option) == 0; };
    for (const BenchWork &work : bench_works())
        if (work_name(work) == o.direction || matrix_default("--direction")) o.works.push_back(work);
    if (matrix_default("--min-time")) o.settings.seconds = kMatrixSeconds;
    if (matrix_default("--repeats")) o.settings.repeats = kMatrixRepeats;
}

/// Unless others are asked for, the matrix takes rows of its own.
void choose_matrix_rows(std::vector<BenchRow> &rows, const Options &o, const Matrix &matrix) {
    if (!o.input.empty() || !o.filter.empty()) return;
    std::erase_if(rows, [&](const BenchRow &row) {
        return std::find(matrix.rows.begin(), matrix.rows.end(), row.name) == matrix.rows.end();
    });
}

/// Sets the threads; one is bound to a CPU, whose number it returns, or -1.
int take_threads(int threads) {
    if (qconv_set_num_threads(threads) != QCONV_OK) throw InputError(std::string("--threads: ") + qconv_last_error());
    return threads == 1 ? pin_to_one_cpu() : -1;
}

void bench_pairs(const Options &o, std::vector<BenchRow> rows, const TargetInfo &target) {
    MatrixReport report;
    report.matrix = builtin_matrix();
    choose_matrix_rows(rows, o, report.matrix);
    report.works = o.works;
    report.threads = o.threads;
    report.cpu = take_threads(o.threads);
    PeakMeter peaks(target.name);
    bench_matrix(rows, o.settings, target, report, peaks);
    if (o.settings.json) {
        fmt::print("{}\n", matrix_json(report, peaks).dump(2));
    } else {
        print_matrix_summary(report, peaks);
    }
    if (report.failed() > 0) throw Error(kExitCheckFailed, fmt::format("bench: {} pairs failed", report.failed()));
}

void bench(const Options &o) {
    const std::vector<TargetInfo> targets = find_targets({o.target});
    if (targets.size() != 1) throw InputError("--target: bench takes one target");
    const TargetInfo &target = targets[0];
    require_cpu_support(target);
    std::vector<BenchRow> rows = read_rows(o);
    if (!o.serve) rows = filter_rows(std::move(rows), o.filter);
    if (o.matrix) return bench_pairs(o, std::move(rows), target);
    BenchSettings settings = o.settings;
    settings.kinds = o.compare.empty() ? std::vector<std::string>{o.kernels} : o.compare;
    if (settings.kinds.size() > 2 || (settings.kinds.size() == 2 && settings.kinds[0] == settings.kinds[1]))
        throw InputError("--compare: allowed: generic,specialised or specialised,generic");

    BenchReport report;
    report.work = o.works.front();
    if (is_step(report.work) && (settings.every_kernel || !o.kernel.empty()))
        throw InputError(fmt::format("{}: not with --direction step, whose three kernels differ; take one direction",
                                     settings.every_kernel ? "--every-kernel" : "--kernel"));
    const BenchKernels kernels(target, rows, report.work, settings.kinds, o.kernel);
    report.threads = o.threads;
    if (settings.kinds.size() == 2) report.compared = settings.kinds[0] + " / " + settings.kinds[1];
    if (settings.every_kernel) report.compared = "chosen / best";
    report.cpu = take_threads(o.threads);
    PeakMeter peaks(target.name);
    if (o.serve) return serve_rows(rows, settings.kinds[0], kernels, report, peaks);

    bench_rows(rows, settings, kernels, report, peaks);
    if (settings.json) {
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
    std::vector<std::string> directions;
    for (const BenchWork &work : bench_works())
        directions.push_back(work_name(work));
    command->add_option("-d,--direction", o->direction, "forward, grad-input, grad-weight or step (see below)")
        ->check(CLI::IsMember(directions))
        ->capture_default_str();
    command->add_option("--layer", o->layer, "Layer of the table's rows: QConv1d, QConv1d_NoAct, conv1d")
        ->capture_default_str();
    command->add_option("--input-quantization", o->input_quantization, "A quantizer, for instance 'inputdorefa(2)'")
        ->capture_default_str();
    command->add_option("--weight-quantization", o->weight_quantization)->capture_default_str();
    command
        ->add_option("--threshold", o->threshold,
                     "gradient_cancellation_threshold of the table's QConv1d rows: a number >= 0, or none")
        ->capture_default_str();
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
        ->add_flag("--every-kernel", o->settings.every_kernel,
                   "Time every kernel that serves a row: shows what the choice among them costs")
        ->excludes("--compare");
    command->add_option("--threads", o->threads)->check(CLI::Range(1, 1024))->capture_default_str();
    command->add_option("--batch", o->batch, "Batch of every row; default: the row's")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
    command->add_option("--filter", o->filter, "Only rows whose name matches this regular expression");
    command->add_option("--min-time", o->settings.seconds, "Seconds of timing a row")
        ->check(CLI::Range(0.0, 3600.0))
        ->capture_default_str();
    command->add_option("--repeats", o->settings.repeats, "Turns that make them up, the peak measured between")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    command->add_flag("--json", o->settings.json, "Print one JSON object at the end");
    command->add_flag("--serve", o->serve, "Answer {\"row\": 0, \"seconds\": 0.1} on standard input, a JSON line each")
        ->excludes("--compare")
        ->excludes("--every-kernel")
        ->excludes("--filter");
    CLI::Option *matrix = command->add_flag(
        "--matrix", o->matrix,
        fmt::format("Every pair of quantizers (see below); by default in all directions, with --min-time {} and "
                    "--repeats {}",
                    kMatrixSeconds, kMatrixRepeats));
    for (const char *other : {"--layer", "--input-quantization", "--weight-quantization", "--bits", "--kernels",
                              "--compare", "--kernel", "--every-kernel", "--serve"})
        matrix->excludes(other);
    command->footer(
        "Every row is checked against the oracle before it is timed. Ctrl-C prints what was measured.\n"
        "A step is forward_training, backward with all gradients, and packing the weights anew, as after an update; "
        "it\n"
        "counts the multiply-adds of forward three times, and its peak is that of its three kernels' instructions.\n"
        "--matrix gives QConv1d rows each of nine input quantizers with each of nine weight quantizers, beside "
        "sign/sign,\n"
        "on a small, a large and a strided row unless a table, a layer file or --filter names others.\n\n"
        "Examples:\n"
        "  qconvc bench\n"
        "  qconvc bench --filter 'wav2vec2|Jasper' --target avx2\n"
        "  qconvc bench --input-quantization 'inputdorefa(4)' --weight-quantization 'weightdorefa(4)'\n"
        "  qconvc bench --direction step --threshold 1 --filter TCN\n"
        "  qconvc bench --matrix --direction step --filter 'TC-ResNet8/block1.conv_1'\n"
        "  qconvc bench net.json --compare generic,specialised --json");
    command->callback([o, command] {
        choose_defaults(*o, *command);
        bench(*o);
    });
}

} // namespace qconv::tools
