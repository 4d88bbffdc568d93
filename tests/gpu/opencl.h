// An OpenCL device for the tests: a context and queue of the first platform, and tensors in guarded memory that the
// device works on in place, where it is a CPU (PoCL).
#pragma once

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "support/guard.h"

namespace qconv::test {

class OpenCl {
public:
    /// Null, with the reason in *why, where there is no platform or no device.
    static std::unique_ptr<OpenCl> open(std::string *why);
    ~OpenCl();
    OpenCl(const OpenCl &) = delete;
    OpenCl &operator=(const OpenCl &) = delete;

    cl_context context() const { return context_; }
    cl_command_queue queue() const { return queue_; }
    qconv_device *device() const { return device_; }
    const std::string &name() const { return name_; }

private:
    OpenCl() = default;

    cl_context context_ = nullptr;
    cl_command_queue queue_ = nullptr;
    qconv_device *device_ = nullptr;
    std::string name_;
};

/// A tensor on the device.
class DeviceTensor {
public:
    DeviceTensor(const OpenCl &cl, size_t capacity_bytes) : cl_(cl), arena_(capacity_bytes) {}
    ~DeviceTensor() { drop(); }
    DeviceTensor(const DeviceTensor &) = delete;
    DeviceTensor &operator=(const DeviceTensor &) = delete;

    /// Takes the bytes; the cl_mem to pass on, NULL for no bytes.
    void *place(std::span<const std::byte> bytes, GuardedArena::Edge edge);
    void *place(std::span<const float> values, GuardedArena::Edge edge) { return place(std::as_bytes(values), edge); }
    /// Waits for the queue and gives the bytes back. What was written beside them is in damage().
    std::span<const std::byte> read();
    std::vector<float> floats();
    std::ptrdiff_t damage() const { return memory_ == nullptr ? 0 : arena_.damage(); }

private:
    void drop();

    const OpenCl &cl_;
    GuardedArena arena_;
    cl_mem memory_ = nullptr;
    std::span<std::byte> bytes_;
};

} // namespace qconv::test
