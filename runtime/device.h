// A GPU that layers live on: a context, and what a call on one of its streams needs. Kernels of the targets in
// device_targets() find both through their user_context.
#pragma once

#include <HalideRuntime.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "cpu_features.h"
#include "fork.h"
#include "qconv/qconv.h"

namespace qconv {

/// Why this machine has no such device for kernels to run on; "" if it may. Looks for a driver the first time.
const char *driver_missing(DeviceKind kind);
/// Why this process cannot run kernels on that kind of device: as above, or for want of support linked.
const char *device_unavailable(DeviceKind kind);

class Device {
public:
    /// As qconv_device_open_cuda and qconv_device_open_opencl.
    static std::shared_ptr<Device> open_cuda(int ordinal, void *context);
    static std::shared_ptr<Device> open_opencl(void *context, void *queue);
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;
    ~Device();

    DeviceKind kind() const { return kind_; }
    void *context() const { return context_; }
    void *stream() const { return stream_; } ///< where a call names none
    const halide_device_interface_t *interface() const { return interface_; }

    /// Throws when it can be told that this is no address of device memory.
    void require_pointer(const void *pointer, const char *name) const;

    /// Where kernels take scratch from (qconv_device_set_allocator).
    struct Allocator {
        qconv_device_allocate_fn allocate = nullptr;
        qconv_device_release_fn release = nullptr;
        void *context = nullptr;
    };
    void set_allocator(const Allocator &allocator);
    /// allocate is NULL where Halide's runtime keeps its own.
    const Allocator &allocator() const { return allocator_; }

private:
    Device(DeviceKind kind, void *context, void *stream, const halide_device_interface_t *interface)
        : kind_(kind), context_(context), stream_(stream), interface_(interface) {}

    DeviceKind kind_;
    void *context_;
    void *stream_;
    const halide_device_interface_t *interface_;
    Allocator allocator_;
    int retained_ = -1; // the CUDA device whose primary context this holds
};

/// Bytes in device memory, copied from host memory that is known by its address.
class DeviceArray {
public:
    DeviceArray() = default;
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;
    ~DeviceArray() { clear(); }

    /// Waits until the copy is made. The same size again takes no new memory.
    void upload(const std::shared_ptr<const Device> &device, const void *host, std::size_t bytes);
    /// Waits for all work on the device (OpenCL: on its own queue), if there is anything here for it to read.
    void wait() noexcept;
    const void *host() const { return host_; }
    std::uint64_t handle() const { return buffer_.device; }

private:
    void clear() noexcept;

    std::shared_ptr<const Device> device_;
    const void *host_ = nullptr;
    halide_buffer_t buffer_{};
    halide_dimension_t dim_{};
};

/// What a kernel's call on a device needs; CallContext leads to it.
struct DeviceCall {
    const Device *device;
    void *stream;
    std::span<const DeviceArray> arrays; ///< of the layer

    /// The handle of a layer's array by its host address, or of any array for NULL; 0 for other addresses.
    std::uint64_t uploaded(const void *host) const;
};

/// While it lives, what a kernel of this call allocates on a CUDA device comes from the device's allocator, where it
/// has one. NULL for a call on the CPU.
class ScratchScope {
public:
    explicit ScratchScope(const DeviceCall *call);
    ScratchScope(const ScratchScope &) = delete;
    ScratchScope &operator=(const ScratchScope &) = delete;
    ~ScratchScope();

    /// As the driver's functions of CUDA 3.2 and later. False: not for this scope, ask the driver.
    bool allocate(std::uint64_t *address, std::size_t bytes, int *error);
    bool release(std::uint64_t address);
    /// Of this thread; NULL for none.
    static ScratchScope *current();

private:
    const DeviceCall *call_;
    std::array<std::uint64_t, 16> taken_{};
    ScratchScope *outer_;
};

/// Throws what Halide's runtime reported of a device: out of memory, or another failure.
[[noreturn]] void throw_device_failure(const std::string &what, const char *error);

extern const AcrossFork devices_across_fork;

/// Once per process: Halide's runtime asks this layer's device for its context and stream.
void install_device_hooks();

} // namespace qconv

/// The C ABI's opaque type.
struct qconv_device {
    std::shared_ptr<qconv::Device> device;
};
