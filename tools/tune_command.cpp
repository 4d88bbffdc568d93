// qconvc tune
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "tools/commands.h"
#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/row_layers.h"
#include "tools/text.h"
#include "tools/tune_database.h"
#include "tools/tune_report.h"
#include "tools/tune_run.h"
#include "tools/tuned.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;

struct Options {
    std::vector<std::string> inputs;
    std::string target = "host", budget = "40", shard = "1/1", filter, libraries, linker;
    std::vector<std::string> strategies = {"mix"}, directions = {"forward"};
    std::string records = "tuning.jsonl", runner;
    std::string merge, csv, t4, report, winners, schedules, core;
    RowOptions rows;
    int64_t width = 0, batch = 0;
    int jobs = usable_cpus(), threads = 1, turns = TuneSettings{}.turns;
    uint64_t seed = 1;
    double candidate_seconds = 120, candidate_gigabytes = 4;
    bool estimate = false, link_static = false, no_retrain = false;
};

template <class Number>
bool parse_number(std::string_view text, Number &value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
}

/// "200": trials of each layer and direction. "90s", "30m", "8h": time of the whole run.
void read_budget(const std::string &text, TuneSettings &settings) {
    const auto refuse = [&] {
        throw InputError(
            fmt::format("--budget '{}': it must be a number of trials for each layer and direction (200), "
                        "or a time with its unit (90s, 30m, 8h)",
                        text));
    };
    if (text.empty()) refuse();
    const std::string_view units = "smh";
    const auto unit = units.find(text.back());
    if (unit == std::string_view::npos) {
        if (!parse_number(text, settings.trials) || settings.trials < 1) refuse();
        return;
    }
    constexpr std::array<double, 3> kSeconds = {1, 60, 3600};
    if (!parse_number(std::string_view(text).substr(0, text.size() - 1), settings.seconds) || !(settings.seconds > 0))
        refuse();
    settings.seconds *= kSeconds[unit];
}

/// "2/8": the second of eight parts.
void read_shard(const std::string &text, TuneSettings &settings) {
    const auto slash = text.find('/');
    std::size_t part = 0;
    const bool read = slash != std::string::npos && parse_number(std::string_view(text).substr(0, slash), part) &&
                      parse_number(std::string_view(text).substr(slash + 1), settings.shards);
    if (!read || part < 1 || part > settings.shards) {
        throw InputError(fmt::format("--shard '{}': it must be i/n with 1 <= i <= n, for instance 2/8", text));
    }
    settings.shard = part - 1;
}

/// Libraries of the host's own target lie beside qconvc.
fs::path own_libraries() {
    return (fs::read_symlink("/proc/self/exe").parent_path() / "../lib").lexically_normal();
}

/// The linker driver for a target's programs, by Debian's names.
std::string default_linker(const TargetInfo &target) {
    if (target.halide.starts_with("arm-64")) return "aarch64-linux-gnu-gcc";
    if (target.halide.starts_with("arm-32")) return "arm-linux-gnueabihf-gcc";
    return "cc";
}

bool takes_records(const Options &o) {
    return !(o.merge.empty() && o.csv.empty() && o.t4.empty() && o.report.empty() && o.winners.empty() &&
             o.schedules.empty());
}

/// Merging and exporting.
void use_records(const Options &o) {
    if (o.inputs.empty()) throw InputError("give files of records, or a database");
    std::vector<TuneRecord> records;
    std::string source = join(o.inputs);
    if (!o.merge.empty()) {
        const Merged merged = merge_records(o.merge, o.inputs);
        merge_weights(o.merge, o.inputs);
        fmt::print("{}: {} read, {} new{}\n", printable(o.merge), counted(merged.read, "record"), merged.added,
                   merged.stale > 0 ? fmt::format(", {} stale", merged.stale) : "");
        records = read_records(o.merge);
        source = o.merge;
    } else {
        for (const std::string &input : o.inputs) {
            std::vector<TuneRecord> more = read_records(input);
            std::move(more.begin(), more.end(), std::back_inserter(records));
        }
    }
    // Records of another schema are kept in databases, but say nothing to this program.
    std::erase_if(records, [](const TuneRecord &record) { return !record.current(); });
    const auto write = [](const std::string &path, const std::string &text) {
        if (path.empty()) return;
        write_atomically(path, text);
        fmt::print("{}: {}\n", printable(path), human_bytes(text.size()));
    };
    if (!o.csv.empty()) write(o.csv, records_csv(records));
    if (!o.t4.empty()) write(o.t4, records_t4(records));
    if (!o.report.empty()) write(o.report, tuning_report(records, source));
    if (!o.winners.empty()) write(o.winners, winning_records(records));
    if (!o.schedules.empty()) {
        for (const std::string &name : export_schedules(records, o.schedules))
            fmt::print("{}/{}\n", printable(o.schedules), name);
    }
}

void tune(const Options &o) {
    if (takes_records(o)) return use_records(o);
    if (o.inputs.size() != 1) throw InputError("tune takes one layer file or workload table (see --help)");
    TuneSettings settings;
    const std::vector<TargetInfo> targets = find_targets({o.target});
    if (targets.size() != 1) throw InputError("--target: tune takes one target");
    settings.target = targets[0];
    const bool foreign = !settings.target.halide.starts_with("x86");
    if (!o.estimate && o.runner.empty()) {
        if (foreign) {
            throw InputError(
                fmt::format("--target {}: its kernels do not run here; give --runner and --libraries, or "
                            "--estimate (docs/tuning.md)",
                            settings.target.name));
        }
        require_cpu_support(settings.target);
    }
    settings.layers = read_layers_or_workloads(o.inputs[0], o.rows);
    // As qconvc bench has it: a width of a few tiles.
    constexpr int64_t kDefaultWidth = 1000;
    for (LayerSpec &layer : settings.layers) {
        if (o.width > 0 || layer.width == 0) layer.width = o.width > 0 ? o.width : kDefaultWidth;
        if (o.batch > 0 || layer.batch == 0) layer.batch = o.batch > 0 ? o.batch : 1;
        layer.config.width = layer.width;
        const qconv_layer_config &c = layer.config;
        const int64_t window = c.dilation * (c.kernel_size - 1) + 1;
        if (layer.width + c.pad_left + c.pad_right < window) {
            throw InputError(
                fmt::format("layer '{}': width {} with padding {} + {} must hold one window of {} positions; "
                            "give 'width' in the layer file, or --width",
                            layer.name, layer.width, c.pad_left, c.pad_right, window));
        }
    }
    settings.ops = ops_of(parse_directions(o.directions));
    settings.strategies = resolve_strategies(o.strategies, settings.target);
    settings.records = o.records;
    settings.runner = o.runner;
    if (!o.runner.empty() && o.runner.find("{}") == std::string::npos) {
        throw InputError(fmt::format("--runner '{}': it must hold {{}}, which stands for the program", o.runner));
    }
    settings.estimate = o.estimate;
    settings.core = o.core;
    settings.retrain = !o.no_retrain;
    read_budget(o.budget, settings);
    read_shard(o.shard, settings);
    settings.seed = o.seed;
    settings.threads = o.threads;
    settings.turns = o.turns;
    BuildSettings &build = settings.build;
    build.libraries = o.libraries.empty() ? own_libraries() : fs::path(o.libraries);
    build.weights = fs::absolute(weights_folder(o.records));
    build.linker = o.linker.empty() ? default_linker(settings.target) : o.linker;
    build.link_static = o.link_static || foreign;
    build.link = !o.estimate;
    build.jobs = o.jobs;
    build.seconds = o.candidate_seconds;
    build.memory_bytes = static_cast<std::uint64_t>(o.candidate_gigabytes * (1 << 30));
    for (const char *library : {"libqconv_measure.a", "libqconv.a", "libqconv_halide_runtime.a"}) {
        if (!build.link || fs::exists(build.libraries / library)) continue;
        throw EnvironmentError(fmt::format("{}: holds no {}; --libraries must name the lib folder of a build for {}",
                                           build.libraries.string(), library, settings.target.name));
    }
    run_tuning(settings);
}

} // namespace

void add_tune_command(CLI::App &app) {
    auto o = std::make_shared<Options>();
    CLI::App *command = app.add_subcommand("tune", "Search for faster kernels for the layers of a layer file");
    command->add_option(
        "inputs", o->inputs,
        "Layer file (.json; see docs/qconvc.md) or workload table (.csv); with one of the last options: records "
        "or databases");
    o->rows.add_to(*command);
    command->add_option("-t,--target", o->target, "One target (qconvc list targets)")->capture_default_str();
    command
        ->add_option("-d,--directions", o->directions,
                     "forward, grad-input, grad-weight, or training for all; by commas")
        ->delimiter(',')
        ->check(CLI::IsMember(direction_options()))
        ->capture_default_str();
    command
        ->add_option("-b,--budget", o->budget,
                     "Trials for each layer and direction (200), or time of the run (90s, 30m, 8h)")
        ->capture_default_str();
    command->add_option("-s,--strategy", o->strategies, join(strategy_names()) + "; by commas")
        ->delimiter(',')
        ->capture_default_str();
    command->add_option("-r,--records", o->records, "File of records, appended to; a run resumes from what it holds")
        ->capture_default_str();
    command->add_option("--width", o->width, "Input width of every layer; default: the layer file's, else 1000")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
    command->add_option("--batch", o->batch, "Batch of every layer; default: the layer file's, else 1")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
    command->add_option("--shard", o->shard, "i/n: the i-th of n parts of the work")->capture_default_str();
    command->add_option("--seed", o->seed)->capture_default_str();
    command->add_option("--turns", o->turns, "Of the best of each layer at the end: more tell smaller gains from noise")
        ->check(CLI::Range(3, 1000))
        ->capture_default_str();
    command->add_option("--threads", o->threads, "Threads of a kernel")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    command->add_option("-j,--jobs", o->jobs, "Compiler processes at once")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    command->add_option("--candidate-time", o->candidate_seconds, "Seconds a candidate may take to compile")
        ->check(CLI::Range(1.0, 86400.0))
        ->capture_default_str();
    command->add_option("--candidate-memory", o->candidate_gigabytes, "Gigabytes it may take then")
        ->check(CLI::Range(0.01, 1024.0))
        ->capture_default_str();
    command->add_option("--runner", o->runner,
                        "Shell command that runs a program elsewhere; {} stands for its path, quoted");
    command->add_option("--libraries", o->libraries, "Folder with libqconv_measure.a and libqconv.a for the target");
    command->add_option("--linker", o->linker, "C compiler that links programs for the target");
    command->add_flag("--static", o->link_static, "Link programs that need no libraries where they run");
    command->add_flag("--estimate", o->estimate,
                      "Measure nothing: estimate by llvm-mca, for targets that cannot run here");
    command->add_option("--core", o->core, "Processor that the estimate is for, as LLVM calls it (cortex-a72, znver4)")
        ->needs("--estimate");
    command->add_flag("--no-retrain", o->no_retrain, "Keep adams2019's cost model as shipped");
    command->add_option("--merge", o->merge, "Add the records of the inputs to this database");
    command->add_option("--csv", o->csv, "Write the inputs' records as a table");
    command->add_option("--t4", o->t4, "Write them in the T4 autotuning format");
    command->add_option("--report", o->report, "Write a page with charts of them");
    command->add_option("--winners", o->winners, "Write the last turns of the winners and the defaults alone");
    command->add_option("--export-schedules", o->schedules,
                        "Write the best autoscheduled kernels' schedules into this folder, as C++ source");
    command->footer(
        "Every candidate is compiled in a process of its own, checked against the oracle, timed alone, and recorded,\n"
        "failures too. At the end the best of each layer take turns; a gain within the noise is none. The default\n"
        "kernel always takes part. Stop at any time, kill -9 included: the same command goes on.\n\n"
        "Examples:\n"
        "  qconvc tune net.json --target host --budget 10m\n"
        "  qconvc tune net.json --directions training --budget 100 --strategy evolve,adams2019\n"
        "  qconvc tune bench/workloads.csv --threshold 1 --strategy evolve --budget 8\n"
        "  qconvc tune net.json --shard 2/8 --records net.2.jsonl\n"
        "  qconvc tune --merge tuned.db net.*.jsonl --report tuned.html\n"
        "  qconvc compile net.json --target host -o kernels --tuned tuned.db\n"
        "  qconvc tune net.json --target arm64 --libraries build/arm64/lib --runner 'qemu-aarch64 {}'");
    command->callback([o] { tune(*o); });
}

void add_build_candidate_command(CLI::App &app, const char *name) {
    auto request = std::make_shared<std::string>();
    CLI::App *command = app.add_subcommand(name, "Compile and link one candidate of a tuning run");
    command->add_option("request", *request, "JSON file")->required();
    command->callback([request] { build_candidate(*request); });
}

} // namespace qconv::tools
