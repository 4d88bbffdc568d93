#include "cuda_driver.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "device.h"
#include "errors.h"

namespace qconv {
namespace {

constexpr const char *library = "libcuda.so.1";
// Kernels are PTX of ISA 7.0 for compute capability 8.0, which came with CUDA 11.0.
constexpr int oldest_driver = 11000;
constexpr int least_major = 8;

// Of cuda.h.
constexpr int success = 0;
constexpr int capability_major = 75; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
constexpr int capability_minor = 76;
constexpr int memory_type = 2; // CU_POINTER_ATTRIBUTE_MEMORY_TYPE
constexpr unsigned host_memory = 1;
constexpr int is_managed = 8; // CU_POINTER_ATTRIBUTE_IS_MANAGED

template <typename Function>
bool find(void *handle, Function &function, const char *name) {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    return function != nullptr;
}

struct Loaded {
    void *handle = nullptr;
    CudaDriver driver;
    std::string why; // it cannot be used; "" if it can
};

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string load(void *&handle, CudaDriver &d) {
    handle = dlopen(library, RTLD_NOW);
    if (handle == nullptr) return std::string("no CUDA driver is installed (") + dlerror() + ")";
    const bool complete =
        find(handle, d.driver_version, "cuDriverGetVersion") && find(handle, d.init, "cuInit") &&
        find(handle, d.error_name, "cuGetErrorName") && find(handle, d.device_count, "cuDeviceGetCount") &&
        find(handle, d.device_get, "cuDeviceGet") && find(handle, d.device_attribute, "cuDeviceGetAttribute") &&
        find(handle, d.primary_retain, "cuDevicePrimaryCtxRetain") &&
        (find(handle, d.primary_release, "cuDevicePrimaryCtxRelease_v2") ||
         find(handle, d.primary_release, "cuDevicePrimaryCtxRelease")) &&
        find(handle, d.push_current, "cuCtxPushCurrent_v2") && find(handle, d.pop_current, "cuCtxPopCurrent_v2") &&
        find(handle, d.current_device, "cuCtxGetDevice") && find(handle, d.synchronize, "cuCtxSynchronize") &&
        find(handle, d.pointer_attribute, "cuPointerGetAttribute");
    if (!complete) return std::string("the CUDA driver ") + library + " is too old: it lacks functions";
    int version = 0, count = 0;
    if (const int error = d.driver_version(&version); error != success) {
        return "cuDriverGetVersion failed: " + d.describe(error);
    }
    if (version < oldest_driver) {
        return "the CUDA driver is of version " + version_text(version) + "; kernels need " +
               version_text(oldest_driver) + " or newer";
    }
    if (const int error = d.init(0); error != success) return "cuInit failed: " + d.describe(error);
    if (const int error = d.device_count(&count); error != success) {
        return "cuDeviceGetCount failed: " + d.describe(error);
    }
    return count > 0 ? "" : "the CUDA driver sees no GPU";
}

const Loaded &loaded() {
    // Never destroyed: devices may be closed while other static objects go.
    static const Loaded *const instance = [] {
        auto *result = new Loaded;
        result->why = load(result->handle, result->driver);
        return result;
    }();
    return *instance;
}

int allocate(std::uint64_t *address, std::size_t bytes) {
    static const auto driver =
        reinterpret_cast<int (*)(std::uint64_t *, std::size_t)>(dlsym(loaded().handle, "cuMemAlloc_v2"));
    int error = 0;
    ScratchScope *scope = ScratchScope::current();
    return scope != nullptr && scope->allocate(address, bytes, &error) ? error : driver(address, bytes);
}

int release(std::uint64_t address) {
    static const auto driver = reinterpret_cast<int (*)(std::uint64_t)>(dlsym(loaded().handle, "cuMemFree_v2"));
    ScratchScope *scope = ScratchScope::current();
    return scope != nullptr && scope->release(address) ? success : driver(address);
}

} // namespace

void *cuda_symbol(const char *name) {
    if (loaded().handle == nullptr) return nullptr;
    void *symbol = dlsym(loaded().handle, name);
    if (symbol == nullptr) return nullptr;
    if (std::strcmp(name, "cuMemAlloc_v2") == 0) return reinterpret_cast<void *>(allocate);
    if (std::strcmp(name, "cuMemFree_v2") == 0) return reinterpret_cast<void *>(release);
    return symbol;
}

std::string CudaDriver::describe(int error) const {
    const char *name = nullptr;
    if (error_name(error, &name) != success || name == nullptr) return "error " + std::to_string(error);
    return name;
}

const char *cuda_unavailable() {
    return loaded().why.c_str();
}

const CudaDriver &cuda_driver() {
    if (!loaded().why.empty()) throw Error(QCONV_NO_DEVICE, "CUDA cannot be used: " + loaded().why);
    return loaded().driver;
}

void require_compute_capability(const CudaDriver &driver, int device) {
    int major = 0, minor = 0;
    driver.device_attribute(&major, capability_major, device);
    driver.device_attribute(&minor, capability_minor, device);
    if (major >= least_major) return;
    throw Error(QCONV_NO_DEVICE, "CUDA device " + std::to_string(device) + " has compute capability " +
                                     std::to_string(major) + "." + std::to_string(minor) + "; kernels need " +
                                     std::to_string(least_major) + ".0 or higher");
}

void require_cuda_pointer(void *context, const void *pointer, const char *name) {
    const CudaDriver &driver = cuda_driver();
    const auto address = reinterpret_cast<std::uint64_t>(pointer);
    unsigned type = 0, managed = 0;
    // The calling thread need have none.
    void *popped = nullptr;
    const bool pushed = driver.push_current(context) == success;
    const bool known = driver.pointer_attribute(&type, memory_type, address) == success;
    const bool host = !known || type == host_memory;
    if (host && known) driver.pointer_attribute(&managed, is_managed, address);
    if (pushed) driver.pop_current(&popped);
    if (!host || managed != 0) return;
    char text[32];
    std::snprintf(text, sizeof text, "%p", pointer);
    throw_invalid(name, text, "it is host memory, or none of CUDA's; it must be memory of the device");
}

} // namespace qconv
