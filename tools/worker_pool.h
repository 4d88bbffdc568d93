// Runs this program's hidden verbs in processes of their own, several at a time: a compiler that crashes or runs out of
// memory takes down one kernel, not the tool, and its last words can be shown.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace qconv::tools {

struct WorkerTask {
    std::string label;                  // for messages: "layer 'conv1' for avx2"
    std::vector<std::string> arguments; // of this executable
    std::filesystem::path log;          // takes the worker's output
};

/// Runs every task, at most `jobs` at once. `finished(index, seconds)` is called as each ends well. On the first
/// failure or an interrupt the others are ended, and EnvironmentError (naming the task) or Interrupted is thrown.
void run_workers(const std::vector<WorkerTask> &tasks, int jobs,
                 const std::function<void(std::size_t, double)> &finished);

/// Runs one program found on PATH and waits. Returns its exit status (128 + signal if killed; 127 if not found); its
/// output goes to `log`.
int run_program(const std::vector<std::string> &arguments, const std::filesystem::path &log);

/// The last non-empty lines of a log, for a message.
std::string last_words(const std::filesystem::path &log);

/// CPUs this process may use.
int usable_cpus();

} // namespace qconv::tools
