// From a candidate to a program that measures it, and what the program says.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/tune_records.h"
#include "tools/tune_unit.h"

namespace qconv::tools {

struct BuildSettings {
    std::filesystem::path folder;    ///< for files in the making; the run's own
    std::filesystem::path libraries; ///< with libqconv_measure.a, libqconv.a, libqconv_halide_runtime.a of the target
    std::filesystem::path weights;   ///< folder of cost models that candidates name
    std::string linker;              ///< C compiler driver that links for the target
    bool link_static = false;        ///< a program that needs no libraries where it runs
    bool link = true;                ///< else only the object, for an estimate
    int jobs = 1;
    double seconds = 120; ///< a candidate may take
    std::uint64_t memory_bytes = 4ull << 30;
    int repeats = 5;
    double repeat_seconds = 0.04;
};

/// A candidate on its way to a record.
struct Trial {
    TuneUnit unit;
    Candidate candidate;
    std::filesystem::path program;
    TuneRecord::Json record; ///< all that is known so far
    bool failed = false;

    void fail(const std::string &failure_class, const std::string &text);
};

/// A trial with the part of its record that is known beforehand.
Trial make_trial(const TuneUnit &unit, const Candidate &candidate, uint64_t seed, const BuildSettings &settings);

/// Compiles and links them in worker processes, several at once; failures are noted in the trial.
void build_trials(std::vector<Trial> &trials, const BuildSettings &settings);

/// Runs a trial's program, by `runner` ("", or a shell command in which {} stands for the program's path, quoted), and
/// notes the result or failure.
void run_trial(Trial &trial, const std::string &runner, double seconds_limit);
/// The times alone, of one more run of the program; empty after a failure.
std::vector<double> repeat_trial(const Trial &trial, const std::string &runner, double seconds_limit);

/// Removes a trial's files.
void discard_files(const Trial &trial, const BuildSettings &settings);

/// The worker's part: reads a request, writes the object and the program.
void build_candidate(const std::filesystem::path &request);

} // namespace qconv::tools
