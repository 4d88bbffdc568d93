#include "threads.h"

#include <sched.h>

#include <HalideRuntime.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "errors.h"
#include "memory.h"
#include "workspace.h"

namespace qconv {
namespace {

constexpr int max_threads = 1024;
constexpr int chunks_per_worker = 4;

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

// One parallel loop. Workers take chunks until none is left, so that a worker which starts late, or never, holds up
// nobody, and no more than the call's number of workers ever run at once: each has its own slab.
struct Loop {
    halide_task_t task;
    int min;
    int size;
    std::uint8_t *closure;
    int chunks;
    std::atomic<int> next{0};
    std::atomic<int> status{0};
};

int run_range(void *user_context, halide_task_t task, int begin, int end, std::uint8_t *closure) {
    for (int i = begin; i < end; ++i) {
        if (const int status = task(user_context, i, closure); status != 0) return status;
    }
    return 0;
}

int run_worker(void *user_context, int worker, std::uint8_t *loop_pointer) {
    Loop &loop = *reinterpret_cast<Loop *>(loop_pointer);
    const CallContext::WorkerScope scope(static_cast<CallContext *>(user_context), worker);
    const auto bound = [&loop](int chunk) {
        return loop.min + static_cast<int>(std::int64_t{loop.size} * chunk / loop.chunks);
    };
    while (loop.status.load(std::memory_order_relaxed) == 0) {
        const int chunk = loop.next.fetch_add(1, std::memory_order_relaxed);
        if (chunk >= loop.chunks) break;
        const int status = run_range(user_context, loop.task, bound(chunk), bound(chunk + 1), loop.closure);
        if (status != 0) loop.status.store(status, std::memory_order_relaxed);
    }
    return loop.status.load(std::memory_order_relaxed);
}

int do_par_for(void *user_context, halide_task_t task, int min, int size, std::uint8_t *closure) {
    const auto *context = static_cast<const CallContext *>(user_context);
    // A loop inside a worker's share runs there: the other workers have shares of their own.
    const bool nested = context != nullptr && context->on_worker();
    const int workers = std::min(context != nullptr ? context->workers() : num_threads(), size);
    if (workers <= 1 || nested) return run_range(user_context, task, min, min + size, closure);
    Loop loop{task, min, size, closure, std::min(size, workers * chunks_per_worker)};
    return halide_default_do_par_for(user_context, run_worker, 0, workers, reinterpret_cast<std::uint8_t *>(&loop));
}

void *allocate_scratch(void *user_context, std::size_t bytes) {
    if (user_context == nullptr) return try_allocate(bytes);
    return static_cast<CallContext *>(user_context)->allocate(bytes);
}

void release_scratch(void *user_context, void *memory) {
    if (user_context == nullptr) return release(memory);
    static_cast<CallContext *>(user_context)->release(memory);
}

void handle_error(void *user_context, const char *text) {
    if (user_context == nullptr) return set_last_error(text);
    static_cast<CallContext *>(user_context)->record_error(text);
}

} // namespace

void set_num_threads(int threads) {
    if (threads < 1 || threads > max_threads) {
        throw_invalid("threads", std::to_string(threads), "it must be 1.." + std::to_string(max_threads));
    }
    install_halide_hooks();
    thread_count().store(threads);
    halide_set_num_threads(threads);
}

int num_threads() {
    return thread_count().load(std::memory_order_relaxed);
}

void install_halide_hooks() {
    static std::once_flag once;
    std::call_once(once, [] {
        halide_set_custom_do_par_for(do_par_for);
        halide_set_custom_malloc(allocate_scratch);
        halide_set_custom_free(release_scratch);
        halide_set_error_handler(handle_error);
        halide_set_num_threads(num_threads());
    });
}

void parallel_for(CallContext &context, int count, const std::function<void(int)> &body) {
    const halide_task_t task = [](void *, int i, std::uint8_t *closure) {
        (*reinterpret_cast<const std::function<void(int)> *>(closure))(i);
        return 0;
    };
    // Halide hands the closure through as bytes; it is not written.
    do_par_for(&context, task, 0, count,
               reinterpret_cast<std::uint8_t *>(const_cast<std::function<void(int)> *>(&body)));
}

} // namespace qconv
