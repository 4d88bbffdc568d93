// Scratch memory of one forward call. A CallContext is the user_context of every Halide runtime function below it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "qconv/qconv.h"

namespace qconv {

struct DeviceCall;

/// Scratch that one task of a kernel keeps for each of its input positions.
std::int64_t scratch_per_position(const qconv_kernel &kernel, const qconv_layer_config &config);

/// Upper bound of the scratch that one task of a kernel holds at once.
std::size_t scratch_bytes(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t tile_width);

/// Bytes of a slab that offers at least `scratch` bytes.
std::size_t slab_bytes(std::size_t scratch);

/// The workspace is cut into slabs, one for each worker of the call. A slab is a stack: kernels free in reverse order
/// within a task, and what is freed out of order is reclaimed with its neighbour. One worker at a time uses a slab, so
/// nothing here takes a lock. The calling thread uses slab 0 outside parallel loops; inside them so does worker 0, on
/// top of what the calling thread holds while it waits.
class CallContext {
public:
    /// workspace, 64-byte aligned: `workers` slabs of `slab` bytes each, and `extra` more for the first.
    CallContext(void *workspace, std::size_t slab, int workers, std::size_t extra = 0);
    CallContext(const CallContext &) = delete;
    CallContext &operator=(const CallContext &) = delete;
    ~CallContext();

    /// The context that `user_context` is; NULL if it is another library's. Kernels of other libraries in the program
    /// may share the Halide runtime, and only they know what theirs points to: so no more than the address is looked
    /// at. Works on the threads that run the kernels of a call: the one that made the context, and workers.
    static CallContext *from(void *user_context) noexcept;

    int workers() const { return workers_; }

    /// Where a call on a device runs; NULL on the CPU.
    const DeviceCall *device() const { return device_; }
    void set_device(const DeviceCall *device) { device_ = device; }

    /// Scratch for a kernel. Out of the slab if it has room, else from the allocator, which counts as a fallback. NULL
    /// when that fails too.
    void *allocate(std::size_t bytes) noexcept;
    void release(void *memory) noexcept;

    /// Keeps the first text; kernels may fail on several threads at once.
    void record_error(const char *text) noexcept;
    /// "" if none was recorded. Call after the kernel returned.
    const char *error() const { return error_.data(); }

    /// While it lives, this thread is a worker of the call and allocates from its slab.
    class WorkerScope {
    public:
        WorkerScope(CallContext *context, int worker) noexcept;
        WorkerScope(const WorkerScope &) = delete;
        WorkerScope &operator=(const WorkerScope &) = delete;
        ~WorkerScope();

    private:
        CallContext *previous_context_;
        CallContext *previous_call_;
        int previous_worker_;
    };
    /// Whether this thread runs as a worker of this call.
    bool on_worker() const noexcept;

private:
    struct Slab;
    std::byte *slab_start(std::size_t index) const;
    Slab &slab(std::size_t index) const;

    std::byte *base_;
    std::size_t first_bytes_;
    std::size_t slab_bytes_;
    int workers_;
    CallContext *previous_call_;
    const DeviceCall *device_ = nullptr;
    std::atomic<bool> failed_{false};
    std::array<char, 512> error_;
};

/// Scratch allocations, in the whole process so far, that a workspace had no room for. For tests and tuning.
std::uint64_t workspace_fallbacks() noexcept;

} // namespace qconv
