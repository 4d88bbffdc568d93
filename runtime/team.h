// The threads that help with parallel loops.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "fork.h"

namespace qconv {

/// Threads that wait for work; any number of callers use them at the same time. They are the runtime's own, for
/// Halide's are joined at exit, in a forked child too, where they are gone and their handles may be those of other
/// threads.
class Team {
public:
    /// The process's one. Never destroyed: layers may come and go with other static objects. A forked child has a new
    /// one.
    static Team &shared();
    /// What a fork does to it.
    static const AcrossFork across_fork;

    /// Calls work(closure, worker) for worker 0 on this thread, and for each of 1..workers-1 on a thread of the team if
    /// one comes before this thread is done. Returns when none of them is at it any more.
    using Work = void (*)(void *closure, int worker);
    void run(int workers, Work work, void *closure) noexcept;

    /// Ends the threads, each after what it is doing. Callers work alone from now on.
    void dismiss() noexcept;

private:
    struct Job;

    static Team *&current();
    void gather(int helpers) noexcept;
    void wait_for_work() noexcept;
    Job *open_job() const noexcept;

    std::mutex mutex_; // guards what follows
    std::condition_variable work_;
    Job *jobs_ = nullptr; // of callers that are at it
    std::vector<std::thread> threads_;
    int asleep_ = 0;
    bool dismissed_ = false;
    Team *parents_ = nullptr; // of the process that this one was forked from: out of use
};

} // namespace qconv
