#include "team.h"

#include <algorithm>
#include <atomic>
#include <exception>

#include "float_environment.h"

namespace qconv {
namespace {

// Rounds of waiting before a thread sleeps: loops often come one after the other, and to wake a thread takes longer.
constexpr int rounds_awake = 40;

std::atomic<int> jobs_seen{0}; // counts jobs, for threads that wait without the lock

// At exit, and when the library is unloaded, no thread may be in its code any more.
struct Dismissal {
    ~Dismissal() { Team::shared().dismiss(); }
};

} // namespace

// Lies on its caller's stack.
struct Team::Job {
    Work work;
    void *closure;
    int workers;
    int begun = 1; // workers, the caller among them
    int active = 0;
    std::condition_variable idle{};
    Job *next = nullptr;
};

Team *&Team::current() {
    static Team *team = new Team;
    return team;
}

Team &Team::shared() {
    static const Dismissal dismissal;
    return *current();
}

const AcrossFork Team::across_fork{
    [] { shared().mutex_.lock(); },
    [] { shared().mutex_.unlock(); },
    // The threads stayed behind: the old team cannot be taken apart.
    [] {
        Team *const parents = current();
        current() = new Team;
        current()->parents_ = parents;
    },
};

void Team::run(int workers, Work work, void *closure) noexcept {
    Job job{work, closure, workers};
    {
        const std::lock_guard lock(mutex_);
        gather(workers - 1);
        job.next = jobs_;
        jobs_ = &job;
        jobs_seen.fetch_add(1, std::memory_order_relaxed);
        for (int i = std::min(asleep_, workers - 1); i > 0; --i)
            work_.notify_one();
    }
    work(closure, 0);
    std::unique_lock lock(mutex_);
    Job **link = &jobs_;
    while (*link != &job)
        link = &(*link)->next;
    *link = job.next;
    job.idle.wait(lock, [&job] { return job.active == 0; });
}

// Where no thread can be made the others do its part.
void Team::gather(int helpers) noexcept {
    try {
        while (!dismissed_ && threads_.size() < static_cast<std::size_t>(helpers))
            threads_.emplace_back([this] { wait_for_work(); });
    } catch (const std::exception &) { // too many threads, or no memory
    }
}

Team::Job *Team::open_job() const noexcept {
    Job *job = jobs_;
    while (job != nullptr && job->begun == job->workers)
        job = job->next;
    return job;
}

void Team::wait_for_work() noexcept {
    const DefaultFloatEnvironment environment; // which this thread has from whoever made it
    std::unique_lock lock(mutex_);
    while (!dismissed_) {
        Job *job = open_job();
        if (job != nullptr) {
            const int worker = job->begun++;
            ++job->active;
            lock.unlock();
            job->work(job->closure, worker);
            lock.lock();
            if (--job->active == 0) job->idle.notify_one();
            continue;
        }
        const int seen = jobs_seen.load(std::memory_order_relaxed);
        lock.unlock();
        for (int i = 0; i < rounds_awake && jobs_seen.load(std::memory_order_relaxed) == seen; ++i)
            std::this_thread::yield();
        lock.lock();
        if (open_job() != nullptr || dismissed_) continue;
        ++asleep_;
        work_.wait(lock);
        --asleep_;
    }
}

void Team::dismiss() noexcept {
    std::vector<std::thread> threads;
    {
        const std::lock_guard lock(mutex_);
        dismissed_ = true;
        threads.swap(threads_);
        work_.notify_all();
    }
    for (std::thread &thread : threads)
        thread.join();
}

} // namespace qconv
