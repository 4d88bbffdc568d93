#include "tools/tune_build.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>

#include "tools/directions.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/layer_json.h"
#include "tools/text.h"
#include "tools/tuned.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

namespace fs = std::filesystem;
using Json = TuneRecord::Json;

std::string timestamp() {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

std::string host_name() {
    std::array<char, 256> name{};
    return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

fs::path file_of(const Trial &trial, const BuildSettings &settings, const char *ending) {
    return settings.folder / (trial.record["id"].get<std::string>() + ending);
}

/// A failed worker or program: how it ended, as a failure class that begins with `stage`.
void fail_by_end(Trial &trial, const std::string &stage, const WorkerEnd &end, const fs::path &log) {
    std::error_code none; // a program that did not start has said nothing
    const std::string words = fs::exists(log, none) ? one_line(read_text(log)) : "";
    const auto says = [&](const char *text) { return words.find(text) != std::string::npos; };
    if (end.timed_out) return trial.fail(stage + "-timeout", fmt::format("ended after {}", human_seconds(end.seconds)));
    if (says("bad_alloc") || says("out of memory") || says("Out of memory") || says("Cannot allocate memory"))
        return trial.fail("out-of-memory", words);
    if (!WIFSIGNALED(end.status)) return trial.fail(stage + "-error", words);
    const int signal = WTERMSIG(end.status);
    const std::string how = fmt::format("{}{}{}", strsignal(signal), words.empty() ? "" : ": ", words);
    // The kernel ends what takes the last memory.
    trial.fail(signal == SIGKILL ? "out-of-memory" : stage + "-crash", how);
}

/// The last answer in a program's output.
std::string answer_in(const fs::path &log) {
    constexpr std::string_view kMark = "qconv-measure ";
    std::ifstream stream(log);
    std::string answer;
    for (std::string line; std::getline(stream, line);)
        if (const auto at = line.find(kMark); at != std::string::npos) answer = line.substr(at + kMark.size());
    return answer;
}

/// One word for a shell, whatever is in it.
std::string shell_word(const std::string &text) {
    std::string word = "'";
    for (const char c : text)
        word += c == '\'' ? "'\\''" : std::string(1, c);
    return word + "'";
}

/// Runs a trial's program once; an object, or nothing with the trial failed.
nlohmann::json run_program_of(Trial &trial, const std::string &runner, double seconds_limit) {
    const std::string program = trial.program.string();
    const fs::path log = program + ".log";
    WorkerTask task{trial.unit.label(), {}, log};
    if (!runner.empty()) {
        const std::string word = shell_word(program);
        std::string command = runner;
        for (auto at = command.find("{}"); at != std::string::npos; at = command.find("{}", at + word.size()))
            command.replace(at, 2, word);
        task.arguments = {"-c", command};
    }
    WorkerEnd end;
    run_limited(
        {task}, 1, {seconds_limit, 0}, [&](std::size_t, const WorkerEnd &how) { end = how; },
        runner.empty() ? program : "sh");
    nlohmann::json answer = nlohmann::json::parse(answer_in(log), nullptr, false);
    if (answer.is_object() && answer.contains("class")) {
        trial.fail(answer.value("class", ""), answer.value("error", ""));
        return {};
    }
    if (answer.is_object() && answer.contains("repeats_us") && !answer["repeats_us"].empty()) return answer;
    if (end.well()) {
        trial.fail("no-answer", "the program printed no result: " + last_words(log));
    } else {
        fail_by_end(trial, "run", end, log);
    }
    return {};
}

/// A C string literal.
std::string c_literal(const std::string &text) {
    std::string literal = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') literal += '\\';
        literal += c;
    }
    return literal + "\"";
}

} // namespace

void Trial::fail(const std::string &failure_class, const std::string &text) {
    constexpr std::size_t kLongest = 500;
    failed = true;
    record["result"] = nullptr;
    record["failure"] = {{"class", failure_class}, {"text", text.substr(0, kLongest)}};
}

Trial make_trial(const TuneUnit &unit, const Candidate &candidate, uint64_t seed, const BuildSettings &settings) {
    Trial trial{unit, candidate, {}, {}, false};
    KernelRow row = candidate.row;
    row.name = candidate.base;
    row.targets = {unit.target.name};
    const bool automatic = !row.autoscheduler.name.empty();
    const std::string id = candidate.id(unit);
    trial.record = {
        {"schema", kRecordSchema},
        {"kind", settings.link ? "measurement" : "estimate"},
        {"id", id},
        {"unit", unit.key()},
        {"time", timestamp()},
        {"layer", layer_json(unit.layer)},
        {"direction", op_option(unit.op)},
        {"target", unit.target.name},
        {"halide_target", unit.target.halide},
        {"strategy", candidate.strategy},
        {"knobs", candidate.knobs},
        {"seed", seed},
        {"draw", candidate.seed},
        {"threads", unit.threads},
        {"kernel", Json::parse(kernel_row_json(row))},
        {"hashes",
         {{"algorithm", algorithm_hash(row)},
          {"schedule", automatic ? "" : schedule_hash(unit.target)},
          {"binary", ""}}},
        {"machine", {{"host", host_name()}, {"cpu", ""}, {"governor", ""}, {"runner", ""}}},
        {"versions", {{"qconv", qconv_version()}, {"halide", QCONV_HALIDE_VERSION}, {"llvm", QCONV_LLVM_VERSION}}},
        {"seconds", {{"compile", 0.0}, {"measure", 0.0}}},
        {"result", nullptr},
        {"failure", nullptr}};
    trial.program = file_of(trial, settings, ".run");
    return trial;
}

void build_trials(std::vector<Trial> &trials, const BuildSettings &settings) {
    std::vector<WorkerTask> tasks;
    for (const Trial &trial : trials) {
        const ShapeConstants s = trial.unit.shape();
        const CallSizes sizes = trial.unit.sizes();
        const nlohmann::json request = {
            {"layer", trial.record["layer"]},
            {"kernel", trial.record["kernel"]},
            {"threads", trial.unit.threads},
            {"repeats", settings.repeats},
            {"seconds", settings.repeat_seconds},
            {"target", trial.unit.target.halide},
            {"shape", {s.in_channels, s.out_channels, s.kernel_size, s.stride, s.dilation, s.groups}},
            {"sizes", {sizes.width, sizes.width_out, sizes.batch}},
            {"libraries", settings.libraries.string()},
            {"linker", settings.linker},
            {"weights", settings.weights.string()},
            {"static", settings.link_static},
            {"link", settings.link}};
        const fs::path file = file_of(trial, settings, ".json");
        write_atomically(file, request.dump());
        tasks.push_back({trial.unit.label(), {"build-candidate", file.string()}, file_of(trial, settings, ".log")});
    }
    run_limited(tasks, settings.jobs, {settings.seconds, settings.memory_bytes},
                [&](std::size_t index, const WorkerEnd &end) {
                    Trial &trial = trials[index];
                    trial.record["seconds"]["compile"] = end.seconds;
                    if (!end.well()) return fail_by_end(trial, "compile", end, tasks[index].log);
                    const std::string object = read_text(file_of(trial, settings, ".o"));
                    trial.record["hashes"]["binary"] = stable_hash(object);
                    const fs::path schedule = file_of(trial, settings, ".schedule.h");
                    if (!fs::exists(schedule)) return;
                    const std::string source = read_text(schedule);
                    trial.record["hashes"]["schedule"] = stable_hash(source);
                    trial.record["schedule"] = source;
                });
}

void run_trial(Trial &trial, const std::string &runner, double seconds_limit) {
    const auto start = std::chrono::steady_clock::now();
    const nlohmann::json answer = run_program_of(trial, runner, seconds_limit);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    trial.record["seconds"]["measure"] = took.count();
    trial.record["machine"]["runner"] = runner;
    if (!answer.is_object()) return;
    trial.record["machine"]["cpu"] = answer["cpu"];
    trial.record["machine"]["governor"] = answer["governor"];
    const auto repeats = answer["repeats_us"].get<std::vector<double>>();
    // Whatever disturbs a call makes it longer.
    const double time = *std::min_element(repeats.begin(), repeats.end());
    const qconv_kernel &layout = trial.candidate.row.layout;
    const double planes = layout.path == QCONV_PATH_B1B1 ? std::max(1, layout.input_planes * layout.weight_planes) : 1;
    const double gmacs = answer["macs"].get<double>() / time / 1e3;
    const auto peaks = answer["peak_gmacs"].get<std::vector<double>>();
    const double peak = peaks.empty() ? 0 : *std::max_element(peaks.begin(), peaks.end()) * trial.unit.threads;
    trial.record["result"] = {{"time_us", time},
                              {"repeats_us", repeats},
                              {"interrupted", answer["interrupted"]},
                              {"macs", answer["macs"]},
                              {"gmacs", gmacs},
                              {"peak_gmacs", peak},
                              {"percent_of_peak", peak > 0 ? 100 * gmacs * planes / peak : 0.0},
                              {"checked", answer["checked"]}};
}

std::vector<double> repeat_trial(const Trial &trial, const std::string &runner, double seconds_limit) {
    Trial again = trial;
    const nlohmann::json answer = run_program_of(again, runner, seconds_limit);
    return answer.is_object() ? answer["repeats_us"].get<std::vector<double>>() : std::vector<double>{};
}

void discard_files(const Trial &trial, const BuildSettings &settings) {
    std::error_code ignored;
    for (const char *ending : {".run", ".run.log", ".o", ".c", ".json", ".log", ".schedule.h", ".featurization"})
        fs::remove(file_of(trial, settings, ending), ignored);
}

void build_candidate(const fs::path &file) {
    const nlohmann::json request = nlohmann::json::parse(read_text(file));
    const auto beside = [&](const char *ending) { return fs::path(file).replace_extension(ending); };
    const KernelRow row =
        with_weights(parse_kernel_row(request.at("kernel").dump()), request.at("weights").get<std::string>());
    const auto s = request.at("shape").get<std::array<int64_t, 6>>();
    const auto sizes = request.at("sizes").get<std::array<int64_t, 3>>();
    EmitFiles files;
    files.object = beside(".o");
    if (row.autoscheduler.name.empty()) {
        fs::remove(beside(".schedule.h"));
    } else {
        files.schedule = beside(".schedule.h");
        if (row.autoscheduler.name == "Adams2019") files.featurization = beside(".featurization");
    }
    emit_kernel(row, request.at("target"), {s[0], s[1], s[2], s[3], s[4], s[5]}, {sizes[0], sizes[1], sizes[2]},
                "qconv_candidate", files);
    if (!request.at("link")) return;

    const nlohmann::json measure = {{"layer", request["layer"]},
                                    {"kernel", request["kernel"]},
                                    {"threads", request["threads"]},
                                    {"repeats", request["repeats"]},
                                    {"seconds", request["seconds"]}};
    write_atomically(beside(".c"), "const char qconv_measure_request[] = " + c_literal(measure.dump()) + ";\n");
    std::vector<std::string> command = {request.at("linker"),    "-o",
                                        beside(".run").string(), beside(".c").string(),
                                        beside(".o").string(),   "-L" + request.at("libraries").get<std::string>()};
    if (request.at("static")) command.emplace_back("-static");
    for (const char *flag : {QCONV_MEASURE_LINK_FLAGS})
        if (*flag) command.emplace_back(flag);
    for (const char *library : {"-l:libqconv_measure.a", "-l:libqconv.a", "-l:libqconv_halide_runtime.a", "-lstdc++",
                                "-lpthread", "-ldl", "-lm"})
        command.emplace_back(library);
    const fs::path log = beside(".link.log");
    const int status = run_program(command, log);
    const std::string words = last_words(log);
    std::error_code ignored;
    fs::remove(log, ignored);
    if (status == 127) {
        throw EnvironmentError(
            fmt::format("'{}', which links the measuring program, was not found on PATH", command[0]));
    }
    if (status != 0) throw EnvironmentError(fmt::format("linking the measuring program failed: {}", words));
}

} // namespace qconv::tools
