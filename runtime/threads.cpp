#include "threads.h"

#include <sched.h>

#include <HalideRuntime.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "errors.h"
#include "fork.h"
#include "memory.h"
#include "team.h"
#include "workspace.h"

namespace qconv {
namespace {

constexpr int max_threads = 1024;
constexpr int chunks_per_worker = 4;

[[maybe_unused]] const bool fork_handlers =
    install_fork_handlers(); // here, since whoever calls a layer links this file

using Clock = std::chrono::steady_clock;
constexpr Clock::duration caller_patience = std::chrono::milliseconds(1);

int affinity_size() {
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::clamp(CPU_COUNT(&mask), 1, max_threads);
    // The mask does not fit on machines with more CPUs than cpu_set_t has bits.
    return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, max_threads);
}

std::atomic<int> &thread_count() {
    static std::atomic<int> count{affinity_size()};
    return count;
}

// One parallel loop. A thread begins with the same chunks in every call, since what they read and write may still lie
// in its core's caches. Then it takes whatever is left, so that a thread which starts late, or never, holds up nobody.
// No more than the call's number of workers ever run at once: each has its own slab.
struct Loop {
    CallContext *context;
    halide_task_t task;
    int min;
    int size;
    std::uint8_t *closure;
    std::thread::id caller;
    int workers;
    int chunks;
    std::atomic<int> status{0};
    std::atomic<int> not_taken{chunks};
    std::atomic<int> not_done{chunks};
    std::array<std::atomic<bool>, std::size_t{max_threads} * chunks_per_worker> taken{};
};

int run_range(void *user_context, halide_task_t task, int begin, int end, std::uint8_t *closure) {
    for (int i = begin; i < end; ++i) {
        if (const int status = task(user_context, i, closure); status != 0) return status;
    }
    return 0;
}

// What another library of the program installed, or Halide's own: for kernels that are not ours.
struct Handlers {
    halide_do_par_for_t do_par_for;
    halide_malloc_t malloc;
    halide_free_t free;
    halide_error_handler_t error;
};
Handlers others;

// Where the calling thread begins, of `workers` shares. The team's threads take workers' numbers in any order.
int share_of_this_thread(const Loop &loop) {
    static std::atomic<int> threads_of_pool{0};
    if (std::this_thread::get_id() == loop.caller) return 0;
    thread_local const int number = threads_of_pool.fetch_add(1, std::memory_order_relaxed);
    return 1 + number % (loop.workers - 1);
}

// Threads that sleep take long to wake, tens of microseconds and more in a virtual machine, and then find that their
// share was done elsewhere, or is wanted back from another core's caches. So neither is sleep the first resort, nor
// stealing.
void wait_while_any(const std::atomic<int> &count, Clock::duration patience) {
    const auto end = Clock::now() + patience;
    while (count.load(std::memory_order_relaxed) > 0 && Clock::now() < end) {
        std::this_thread::yield();
    }
}

void run_worker(void *loop_pointer, int worker) {
    Loop &loop = *static_cast<Loop *>(loop_pointer);
    const CallContext::WorkerScope scope(loop.context, worker);
    const auto bound = [&loop](int chunk) {
        return loop.min + static_cast<int>(std::int64_t{loop.size} * chunk / loop.chunks);
    };
    const auto share = [&loop](int number) {
        return static_cast<int>(std::int64_t{loop.chunks} * number / loop.workers);
    };
    const int own = share_of_this_thread(loop), first = share(own), end = share(own + 1);
    const auto start = Clock::now();
    for (int i = 0; i < loop.chunks && loop.status.load(std::memory_order_relaxed) == 0; ++i) {
        // As long as its own share took: then the others should be as far.
        if (i == end - first) wait_while_any(loop.not_taken, Clock::now() - start);
        const int chunk = (first + i) % loop.chunks;
        if (loop.taken[static_cast<std::size_t>(chunk)].exchange(true, std::memory_order_relaxed)) continue;
        loop.not_taken.fetch_sub(1, std::memory_order_relaxed);
        const int status = run_range(loop.context, loop.task, bound(chunk), bound(chunk + 1), loop.closure);
        if (status != 0) loop.status.store(status, std::memory_order_relaxed);
        loop.not_done.fetch_sub(1, std::memory_order_relaxed);
    }
    if (own == 0) wait_while_any(loop.not_done, caller_patience);
}

int run_loop(CallContext &context, halide_task_t task, int min, int size, std::uint8_t *closure) {
    // A loop inside a worker's share runs there: the other workers have shares of their own.
    const int workers = std::min(context.workers(), size);
    if (workers <= 1 || context.on_worker()) return run_range(&context, task, min, min + size, closure);
    const int chunks = std::min(size, workers * chunks_per_worker);
    Loop loop{&context, task, min, size, closure, std::this_thread::get_id(), workers, chunks};
    Team::shared().run(workers, run_worker, &loop);
    return loop.status.load(std::memory_order_relaxed);
}

int do_par_for(void *user_context, halide_task_t task, int min, int size, std::uint8_t *closure) {
    CallContext *context = CallContext::from(user_context);
    return context ? run_loop(*context, task, min, size, closure)
                   : others.do_par_for(user_context, task, min, size, closure);
}

void *allocate_scratch(void *user_context, std::size_t bytes) {
    CallContext *context = CallContext::from(user_context);
    return context ? context->allocate(bytes) : others.malloc(user_context, bytes);
}

void release_scratch(void *user_context, void *memory) {
    CallContext *context = CallContext::from(user_context);
    context ? context->release(memory) : others.free(user_context, memory);
}

void handle_error(void *user_context, const char *text) {
    CallContext *context = CallContext::from(user_context);
    context ? context->record_error(text) : others.error(user_context, text);
}

} // namespace

void set_num_threads(int threads) {
    if (threads < 1 || threads > max_threads) {
        throw_invalid("threads", std::to_string(threads), "it must be 1.." + std::to_string(max_threads));
    }
    thread_count().store(threads);
}

int num_threads() {
    return thread_count().load(std::memory_order_relaxed);
}

void install_halide_hooks() {
    static std::once_flag once;
    std::call_once(once, [] {
        // Of all that it answers, so that no call goes to a handler that is not known yet.
        others = {halide_default_do_par_for, halide_default_malloc, halide_default_free, halide_default_error};
        others.do_par_for = halide_set_custom_do_par_for(do_par_for);
        others.malloc = halide_set_custom_malloc(allocate_scratch);
        others.free = halide_set_custom_free(release_scratch);
        others.error = halide_set_error_handler(handle_error);
    });
}

void parallel_for(CallContext &context, int count, const std::function<void(int)> &body) {
    const halide_task_t task = [](void *, int i, std::uint8_t *closure) {
        (*reinterpret_cast<const std::function<void(int)> *>(closure))(i);
        return 0;
    };
    // Halide hands the closure through as bytes; it is not written.
    run_loop(context, task, 0, count, reinterpret_cast<std::uint8_t *>(const_cast<std::function<void(int)> *>(&body)));
}

} // namespace qconv
