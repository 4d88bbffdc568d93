// Runs this program's hidden verbs in processes of their own, several at a time: a compiler that crashes or runs out of
// memory takes down one kernel, not the tool, and its last words can be shown.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace qconv::tools {

struct WorkerTask {
    std::string label;                  // for messages: "layer 'conv1' for avx2"
    std::vector<std::string> arguments; // of this executable
    std::filesystem::path log;          // takes the worker's output
    std::filesystem::path input = "/dev/null";
};

// What is run here ends with this process, however that ends.

/// Runs every task, at most `jobs` at once. `finished(index, seconds)` is called as each ends well. On the first
/// failure or an interrupt the others are ended, and EnvironmentError (naming the task) or Interrupted is thrown.
void run_workers(const std::vector<WorkerTask> &tasks, int jobs,
                 const std::function<void(std::size_t, double)> &finished);

/// What a task may take; 0: any amount.
struct WorkerLimits {
    double seconds = 0;
    std::uint64_t memory_bytes = 0; // of address space
};

/// How a task ended.
struct WorkerEnd {
    int status = 0; // as of waitpid
    bool timed_out = false;
    double seconds = 0;

    bool well() const { return status == 0 && !timed_out; }
};

/// Runs every task whatever becomes of the others, each in a process group of its own, within limits. With
/// `program`, found on PATH, in place of this executable. Throws Interrupted, after ending all, on an interrupt.
void run_limited(const std::vector<WorkerTask> &tasks, int jobs, const WorkerLimits &limits,
                 const std::function<void(std::size_t, const WorkerEnd &)> &finished, const std::string &program = "");

/// Runs one program found on PATH and waits. Returns its exit status (128 + signal if killed; 127 if not found); its
/// output goes to `log`.
int run_program(const std::vector<std::string> &arguments, const std::filesystem::path &log);

/// The last non-empty lines of a log, for a message.
std::string last_words(const std::filesystem::path &log);

/// CPUs this process may use.
int usable_cpus();

} // namespace qconv::tools
