// Runs a part of a verb in a process of its own: for libraries that crash, loop or grow on files made to harm.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

namespace qconv::tools {

/// A sanitizer's shadow takes terabytes of address space: under one it cannot be limited.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kLimitsAddressSpace = false;
#else
inline constexpr bool kLimitsAddressSpace = true;
#endif

/// In a child process: has it killed when its parent, `parent`, ends, kill -9 included. False if that has ended
/// already.
bool end_with_parent(pid_t parent);

/// What the process may take.
struct IsolationLimits {
    std::uint64_t cpu_seconds;
    std::uint64_t memory_bytes; // of address space
};

/// Calls `work` in a child process, whose standard output is ours and whose errors end up here: what `work` throws is
/// thrown here with its exit code, and a crash, a limit that was reached or any other end is an InputError about
/// `subject`, in one line. Call it while this process has one thread. Throws Interrupted on an interrupt.
void run_isolated(const std::function<void()> &work, const std::string &subject, const IsolationLimits &limits);

} // namespace qconv::tools
