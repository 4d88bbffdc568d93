#include "tools/isolated.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

#include "tools/errors.h"
#include "tools/files.h"
#include "tools/report.h"

namespace qconv::tools {
namespace {

constexpr int kOutOfMemory = 4; // beside the codes of Error

using File = std::unique_ptr<std::FILE, int (*)(std::FILE *)>;

void limit(int resource, std::uint64_t most) {
    const rlimit both{most, most};
    setrlimit(static_cast<__rlimit_resource>(resource), &both);
}

[[noreturn]] void child(const std::function<void()> &work, int errors, const IsolationLimits &limits) {
    dup2(errors, STDERR_FILENO);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, limits.cpu_seconds);
    if (kLimitsAddressSpace) limit(RLIMIT_AS, limits.memory_bytes);
    int code = kExitOk;
    try {
        work();
        if (std::fflush(stdout) != 0) throw EnvironmentError("standard output: cannot write it");
    } catch (const std::bad_alloc &) {
        code = kOutOfMemory;
    } catch (const Error &error) {
        put_on_terminal(error.what());
        code = error.code();
    } catch (const std::exception &error) {
        put_on_terminal(error.what());
        code = kExitEnvironment;
    }
    // The parent owns what static destructors would tear down.
    _exit(code);
}

std::string read_back(std::FILE *file) {
    std::string text;
    if (std::fseek(file, 0, SEEK_SET) != 0) return text;
    for (int c = std::fgetc(file); c != EOF && text.size() < 4000; c = std::fgetc(file))
        text += static_cast<char>(c);
    return text;
}

/// Of what a library says before it ends the process.
std::string first_line(const std::string &text) {
    constexpr std::string_view prefix = "LLVM ERROR: ";
    const std::size_t start = text.starts_with(prefix) ? prefix.size() : 0;
    return text.substr(start, text.find('\n', start) - start);
}

} // namespace

bool end_with_parent(pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return getppid() == parent;
}

void run_isolated(const std::function<void()> &work, const std::string &subject, const IsolationLimits &limits) {
    const File errors(std::tmpfile(), std::fclose);
    if (!errors) throw EnvironmentError(fmt::format("cannot make a temporary file: {}", std::strerror(errno)));
    std::fflush(nullptr);
    const pid_t parent = getpid(), process = fork();
    if (process < 0) throw EnvironmentError(fmt::format("cannot start a process: {}", std::strerror(errno)));
    if (process == 0 && !end_with_parent(parent)) _exit(kExitEnvironment);
    if (process == 0) child(work, fileno(errors.get()), limits);
    int status = 0;
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
        // What a terminal's Ctrl-C told both, `kill` told us alone.
        if (interrupted()) kill(process, SIGTERM);
    }
    check_interrupt();
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == kExitOk) return;
    std::string text = read_back(errors.get());
    if (code == kExitInput || code == kExitEnvironment || code == kExitInterrupted)
        throw Error(static_cast<ExitCode>(code), text);
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (signal == SIGXCPU || signal == SIGKILL)
        text = fmt::format("it takes more than {} seconds", limits.cpu_seconds);
    else if (code == kOutOfMemory || text.find("out of memory") != text.npos)
        text = fmt::format("it takes more than {} GiB of memory", limits.memory_bytes >> 30);
    else if (text.empty())
        text = signal ? fmt::format("its reader crashed: {}", strsignal(signal)) : "its reader gave up";
    throw InputError(fmt::format("{}: not a library that can be read: {}", subject, first_line(text)));
}

} // namespace qconv::tools
