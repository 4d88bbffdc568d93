#include "tools/worker_pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <thread>

#include "tools/errors.h"
#include "tools/files.h"
#include "tools/isolated.h"

namespace qconv::tools {
namespace {

using Clock = std::chrono::steady_clock;

struct Running {
    pid_t process;
    std::size_t task;
    Clock::time_point start;
};

/// Starts a program with its output going to `log`. Returns an errno value, 0 if it runs.
int start(const char *program, const std::vector<std::string> &arguments, const std::filesystem::path &input,
          const std::filesystem::path &log, pid_t &process, bool own_group = false) {
    std::vector<char *> argv;
    for (const std::string &argument : arguments)
        argv.push_back(const_cast<char *>(argument.c_str()));
    argv.push_back(nullptr);
    int failure[2]; // closes when the program starts
    if (pipe2(failure, O_CLOEXEC) != 0) return errno;
    const pid_t parent = getpid();
    process = fork();
    if (process < 0) {
        const int error = errno;
        close(failure[0]);
        close(failure[1]);
        return error;
    }
    if (process == 0) {
        const auto redirect = [](const std::filesystem::path &file, int flags, int stream) {
            const int descriptor = open(file.c_str(), flags | O_CLOEXEC, 0666);
            return descriptor >= 0 && dup2(descriptor, stream) >= 0;
        };
        if (own_group) setpgid(0, 0);
        const bool ready = end_with_parent(parent) && redirect(input, O_RDONLY, STDIN_FILENO) &&
                           redirect(log, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO) &&
                           dup2(STDERR_FILENO, STDOUT_FILENO) >= 0;
        if (ready) execvp(program, argv.data());
        const int error = errno;
        static_cast<void>(write(failure[1], &error, sizeof error) == 0);
        _exit(127);
    }
    // Both processes do so: neither knows which of them comes first.
    if (own_group) setpgid(process, process);
    close(failure[1]);
    int error = 0;
    ssize_t count = 0;
    while ((count = read(failure[0], &error, sizeof error)) < 0 && errno == EINTR) {
    }
    close(failure[0]);
    if (count <= 0) return 0;
    waitpid(process, nullptr, 0);
    return error;
}

/// Ends what still runs when the pool is left early.
class RunningSet {
public:
    explicit RunningSet(bool groups = false) : groups_(groups) {}
    ~RunningSet() {
        for (const Running &one : list)
            end(one);
        for (const Running &one : list)
            waitpid(one.process, nullptr, 0);
    }
    void end(const Running &one) const { kill(groups_ ? -one.process : one.process, SIGKILL); }

    std::vector<Running> list;

private:
    bool groups_;
};

std::string death(int status, const std::filesystem::path &log) {
    if (WIFSIGNALED(status)) {
        const int signal = WTERMSIG(status);
        const char *hint = signal == SIGKILL ? " (out of memory? try --jobs 1)" : "";
        return fmt::format("the compiler process died: {}{}", strsignal(signal), hint);
    }
    std::string words = last_words(log);
    if (!words.empty()) return words;
    // With the disk full there was no room for last words either.
    constexpr std::uintmax_t kLittle = 1 << 20;
    std::error_code error;
    if (std::filesystem::space(log.parent_path(), error).available < kLittle && !error) {
        return "no space left on the disk of the output folder";
    }
    return fmt::format("the compiler process ended with status {}", WEXITSTATUS(status));
}

} // namespace

void run_workers(const std::vector<WorkerTask> &tasks, int jobs,
                 const std::function<void(std::size_t, double)> &finished) {
    RunningSet running;
    std::size_t next = 0;
    while (next < tasks.size() || !running.list.empty()) {
        check_interrupt();
        while (next < tasks.size() && running.list.size() < static_cast<std::size_t>(jobs)) {
            Running one{0, next, Clock::now()};
            std::vector<std::string> arguments = tasks[next].arguments;
            arguments.insert(arguments.begin(), "qconvc");
            const int error = start("/proc/self/exe", arguments, tasks[next].input, tasks[next].log, one.process);
            if (error) {
                throw EnvironmentError(
                    fmt::format("{}: cannot start a compiler process: {}", tasks[next].label, std::strerror(error)));
            }
            running.list.push_back(one);
            next++;
        }
        bool reaped = false;
        for (std::size_t i = 0; i < running.list.size();) {
            const Running one = running.list[i];
            int status = 0;
            if (waitpid(one.process, &status, WNOHANG) != one.process) {
                i++;
                continue;
            }
            reaped = true;
            running.list.erase(running.list.begin() + static_cast<std::ptrdiff_t>(i));
            const WorkerTask &task = tasks[one.task];
            if (status != 0) {
                check_interrupt(); // the terminal's Ctrl-C reaches the workers too
                throw EnvironmentError(fmt::format("{}: {}", task.label, death(status, task.log)));
            }
            finished(one.task, std::chrono::duration<double>(Clock::now() - one.start).count());
        }
        if (!reaped) std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
}

void run_limited(const std::vector<WorkerTask> &tasks, int jobs, const WorkerLimits &limits,
                 const std::function<void(std::size_t, const WorkerEnd &)> &finished, const std::string &program) {
    RunningSet running(true);
    std::size_t next = 0;
    while (next < tasks.size() || !running.list.empty()) {
        check_interrupt();
        while (next < tasks.size() && running.list.size() < static_cast<std::size_t>(jobs)) {
            Running one{0, next, Clock::now()};
            const WorkerTask &task = tasks[next];
            std::vector<std::string> arguments = task.arguments;
            arguments.insert(arguments.begin(), program.empty() ? "qconvc" : program);
            const char *executable = program.empty() ? "/proc/self/exe" : program.c_str();
            if (const int error = start(executable, arguments, task.input, task.log, one.process, true)) {
                throw EnvironmentError(
                    fmt::format("{}: cannot start {}: {}", task.label, arguments[0], std::strerror(error)));
            }
            if (kLimitsAddressSpace && limits.memory_bytes > 0) {
                const rlimit memory{limits.memory_bytes, limits.memory_bytes};
                prlimit(one.process, RLIMIT_AS, &memory, nullptr);
            }
            running.list.push_back(one);
            next++;
        }
        bool reaped = false;
        for (std::size_t i = 0; i < running.list.size();) {
            const Running one = running.list[i];
            WorkerEnd end;
            end.seconds = std::chrono::duration<double>(Clock::now() - one.start).count();
            if (waitpid(one.process, &end.status, WNOHANG) != one.process) {
                end.timed_out = limits.seconds > 0 && end.seconds > limits.seconds;
                if (!end.timed_out) {
                    i++;
                    continue;
                }
                running.end(one);
                waitpid(one.process, &end.status, 0);
            }
            reaped = true;
            running.list.erase(running.list.begin() + static_cast<std::ptrdiff_t>(i));
            finished(one.task, end);
        }
        if (!reaped) std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
}

int run_program(const std::vector<std::string> &arguments, const std::filesystem::path &log) {
    pid_t process = 0;
    if (start(arguments[0].c_str(), arguments, "/dev/null", log, process) != 0) return 127;
    int status = 0;
    while (waitpid(process, &status, 0) < 0) {
        if (errno != EINTR) return 127;
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string last_words(const std::filesystem::path &log) {
    std::ifstream stream(log);
    std::string line, previous, last;
    while (std::getline(stream, line)) {
        if (line.empty()) continue;
        previous = std::move(last);
        last = std::move(line);
    }
    return previous.empty() ? last : previous + " / " + last;
}

int usable_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

} // namespace qconv::tools
