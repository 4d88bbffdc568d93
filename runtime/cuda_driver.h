// The CUDA driver, loaded when first asked for: nothing here needs it to link or to start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace qconv {

/// The driver's functions that the runtime calls itself; launches and copies go through Halide's runtime.
struct CudaDriver {
    int (*driver_version)(int *version) = nullptr;
    int (*init)(unsigned flags) = nullptr;
    int (*error_name)(int error, const char **name) = nullptr;
    int (*device_count)(int *count) = nullptr;
    int (*device_get)(int *device, int ordinal) = nullptr;
    int (*device_attribute)(int *value, int attribute, int device) = nullptr;
    int (*primary_retain)(void **context, int device) = nullptr;
    int (*primary_release)(int device) = nullptr;
    int (*push_current)(void *context) = nullptr;
    int (*pop_current)(void **context) = nullptr;
    int (*current_device)(int *device) = nullptr;
    int (*synchronize)() = nullptr; // all streams of the current context
    int (*pointer_attribute)(void *value, int attribute, std::uint64_t pointer) = nullptr;

    /// "CUDA_ERROR_NO_DEVICE" and so on.
    std::string describe(int error) const;
};

/// Why no CUDA kernel can run here; "" if one can.
const char *cuda_unavailable();
/// The loaded driver. Throws QCONV_NO_DEVICE with the reason when it is unavailable.
const CudaDriver &cuda_driver();
/// Throws unless the device's compute capability is at least the one kernels are compiled for.
void require_compute_capability(const CudaDriver &driver, int device);
/// Throws when the driver knows this address as host memory, or not at all.
void require_cuda_pointer(void *context, const void *pointer, const char *name);

constexpr int cuda_out_of_memory = 2; // CUDA_ERROR_OUT_OF_MEMORY
/// For Halide's runtime: the driver's function of this name, or NULL; of those that take memory and give it back, ones
/// that ask the ScratchScope first.
void *cuda_symbol(const char *name);

} // namespace qconv
