#include "device.h"

#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <string>

#include "config.h"
#include "cuda_driver.h"
#include "errors.h"
#include "memory.h"
#include "threads.h"
#include "workspace.h"

// Present where the Halide runtime with GPU support is linked.
extern "C" {
[[gnu::weak]] const halide_device_interface_t *halide_cuda_device_interface();
[[gnu::weak]] const halide_device_interface_t *halide_opencl_device_interface();
using CudaAcquireContext = int (*)(void *, void **, bool);
using CudaGetStream = int (*)(void *, void *, void **);
[[gnu::weak]] CudaAcquireContext halide_set_cuda_acquire_context(CudaAcquireContext handler);
[[gnu::weak]] CudaGetStream halide_set_cuda_get_stream(CudaGetStream handler);

// Halide's runtime calls these; their definitions here take the place of its own, which are weak.
void *halide_cuda_get_symbol(void *user_context, const char *name);
int halide_acquire_cl_context(void *user_context, void **context, void **queue, bool create);
int halide_release_cl_context(void *user_context);
}

namespace qconv {
namespace {

CudaAcquireContext default_acquire_context = nullptr;
CudaGetStream default_get_stream = nullptr;

const DeviceCall *call_of(void *user_context) {
    const CallContext *context = CallContext::from(user_context);
    return context == nullptr ? nullptr : context->device();
}

int acquire_cuda_context(void *user_context, void **context, bool create) {
    const DeviceCall *call = call_of(user_context);
    if (call == nullptr) return default_acquire_context(user_context, context, create);
    *context = call->device->context();
    return halide_error_code_success;
}

int get_cuda_stream(void *user_context, void *context, void **stream) {
    const DeviceCall *call = call_of(user_context);
    if (call == nullptr) return default_get_stream(user_context, context, stream);
    *stream = call->stream;
    return halide_error_code_success;
}

// Halide wants one call at a time between acquire and release: OpenCL kernels are set up in several steps.
std::mutex opencl_mutex;

/// A CallContext without scratch, for what goes on outside of kernels.
class BareCall {
public:
    explicit BareCall(const DeviceCall &call) : context_(memory_, slab_bytes(0), 1) { context_.set_device(&call); }
    CallContext *context() { return &context_; }

private:
    alignas(memory_alignment) std::byte memory_[1024];
    CallContext context_;
};

// A device is no use in a forked child, and a call on one may take long: the fork waits for none.
void pass() {}

std::string unlinked(const char *kind) {
    return std::string("this program is linked with the Halide runtime that has no ") + kind + " support";
}

} // namespace

const AcrossFork devices_across_fork{pass, pass, [] { new (&opencl_mutex) std::mutex; }};

void throw_device_failure(const std::string &what, const char *error) {
    const std::string text(error);
    const bool memory = text.find("OUT_OF_MEMORY") != std::string::npos ||
                        text.find("OUT_OF_RESOURCES") != std::string::npos ||
                        text.find("ALLOCATION_FAILURE") != std::string::npos;
    throw Error(memory ? QCONV_OUT_OF_MEMORY : QCONV_DEVICE_FAILED, what + ": " + text);
}

const char *driver_missing(DeviceKind kind) {
    static const std::string no_opencl = [] {
        if (dlopen("libOpenCL.so.1", RTLD_NOW) != nullptr) return std::string();
        return std::string("no OpenCL is installed (") + dlerror() + ")";
    }();
    return kind == DeviceKind::Cuda ? cuda_unavailable() : kind == DeviceKind::OpenCl ? no_opencl.c_str() : "";
}

const char *device_unavailable(DeviceKind kind) {
    static const std::string no_cuda = unlinked("CUDA"), no_opencl = unlinked("OpenCL");
    if (kind == DeviceKind::Cuda && halide_cuda_device_interface == nullptr) return no_cuda.c_str();
    if (kind == DeviceKind::OpenCl && halide_opencl_device_interface == nullptr) return no_opencl.c_str();
    return driver_missing(kind);
}

void install_device_hooks() {
    static std::once_flag once;
    std::call_once(once, [] {
        if (halide_set_cuda_acquire_context == nullptr) return;
        default_acquire_context = halide_set_cuda_acquire_context(acquire_cuda_context);
        default_get_stream = halide_set_cuda_get_stream(get_cuda_stream);
    });
}

std::shared_ptr<Device> Device::open_cuda(int ordinal, void *context) {
    if (const char *why = device_unavailable(DeviceKind::Cuda); *why != '\0') {
        throw Error(QCONV_NO_DEVICE, std::string("CUDA cannot be used: ") + why);
    }
    const CudaDriver &driver = cuda_driver();
    const auto require = [&driver](int error, const char *what) {
        if (error != 0) throw Error(QCONV_DEVICE_FAILED, std::string(what) + " failed: " + driver.describe(error));
    };
    install_device_hooks();
    std::shared_ptr<Device> device(new Device(DeviceKind::Cuda, context, nullptr, halide_cuda_device_interface()));
    int number = 0;
    if (context != nullptr) {
        void *popped = nullptr;
        require(driver.push_current(context), "cuCtxPushCurrent");
        const int error = driver.current_device(&number);
        driver.pop_current(&popped);
        require(error, "cuCtxGetDevice");
        require_compute_capability(driver, number);
        return device;
    }
    int count = 0;
    require(driver.device_count(&count), "cuDeviceGetCount");
    if (ordinal < 0 || ordinal >= count) {
        throw_invalid("ordinal", std::to_string(ordinal), "this machine has " + std::to_string(count) + " CUDA GPUs");
    }
    require(driver.device_get(&number, ordinal), "cuDeviceGet");
    require_compute_capability(driver, number);
    require(driver.primary_retain(&device->context_, number), "cuDevicePrimaryCtxRetain");
    device->retained_ = number;
    return device;
}

std::shared_ptr<Device> Device::open_opencl(void *context, void *queue) {
    if (const char *why = device_unavailable(DeviceKind::OpenCl); *why != '\0') {
        throw Error(QCONV_NO_DEVICE, std::string("OpenCL cannot be used: ") + why);
    }
    qconv::require_pointer(context, "context");
    qconv::require_pointer(queue, "queue");
    install_device_hooks();
    return std::shared_ptr<Device>(new Device(DeviceKind::OpenCl, context, queue, halide_opencl_device_interface()));
}

Device::~Device() {
    if (retained_ >= 0) cuda_driver().primary_release(retained_);
}

void Device::require_pointer(const void *pointer, const char *name) const {
    qconv::require_pointer(pointer, name);
    if (kind_ == DeviceKind::Cuda) require_cuda_pointer(context_, pointer, name);
}

void Device::set_allocator(const Allocator &allocator) {
    if (kind_ != DeviceKind::Cuda) {
        throw Error(QCONV_INVALID_ARGUMENT, "device is of OpenCL; only those of CUDA take an allocator");
    }
    if ((allocator.allocate == nullptr) != (allocator.release == nullptr)) {
        throw Error(QCONV_INVALID_ARGUMENT, "allocate and release must both be given, or both be NULL");
    }
    allocator_ = allocator;
}

void DeviceArray::upload(const std::shared_ptr<const Device> &device, const void *host, std::size_t bytes) {
    if (bytes > static_cast<std::size_t>(max_elements)) {
        throw Error(QCONV_INVALID_ARGUMENT, "the packed weights take " + std::to_string(bytes) +
                                                " bytes; on a device at most " + std::to_string(max_elements));
    }
    if (device_ != device || dim_.extent != static_cast<std::int32_t>(bytes)) clear();
    device_ = device;
    const DeviceCall call{device.get(), device->stream(), {}};
    BareCall bare(call);
    dim_ = {0, static_cast<std::int32_t>(bytes), 1};
    buffer_.type = halide_type_t(halide_type_uint, 8);
    buffer_.dimensions = 1;
    buffer_.dim = &dim_;
    buffer_.host = static_cast<std::uint8_t *>(const_cast<void *>(host));
    buffer_.set_host_dirty();
    int code = halide_copy_to_device(bare.context(), &buffer_, device->interface());
    if (code == 0) code = halide_device_sync(bare.context(), &buffer_);
    buffer_.host = nullptr;
    if (code != 0) throw_device_failure("uploading the weights", bare.context()->error());
    host_ = host;
}

void DeviceArray::wait() noexcept {
    if (buffer_.device == 0) return;
    if (device_->kind() == DeviceKind::Cuda) {
        // Halide's runtime would wait for one stream.
        const CudaDriver &driver = cuda_driver();
        void *popped = nullptr;
        if (driver.push_current(device_->context()) != 0) return;
        driver.synchronize();
        driver.pop_current(&popped);
        return;
    }
    const DeviceCall call{device_.get(), device_->stream(), {}};
    BareCall bare(call);
    halide_device_sync(bare.context(), &buffer_);
}

void DeviceArray::clear() noexcept {
    host_ = nullptr;
    if (buffer_.device == 0) return;
    wait(); // kernels of other streams may still read it
    const DeviceCall call{device_.get(), device_->stream(), {}};
    BareCall bare(call);
    halide_device_free(bare.context(), &buffer_);
}

std::uint64_t DeviceCall::uploaded(const void *host) const {
    for (const DeviceArray &array : arrays) {
        if (array.handle() != 0 && (host == nullptr || array.host() == host)) return array.handle();
    }
    return 0;
}

namespace {
thread_local ScratchScope *scratch_scope = nullptr;
} // namespace

ScratchScope::ScratchScope(const DeviceCall *call) : call_(call), outer_(scratch_scope) {
    scratch_scope = this;
}

ScratchScope::~ScratchScope() {
    scratch_scope = outer_;
}

ScratchScope *ScratchScope::current() {
    return scratch_scope;
}

bool ScratchScope::allocate(std::uint64_t *address, std::size_t bytes, int *error) {
    if (call_ == nullptr || call_->device->allocator().allocate == nullptr) return false;
    std::uint64_t *const place = std::find(taken_.begin(), taken_.end(), std::uint64_t{0});
    if (place == taken_.end()) return false;
    const Device::Allocator &allocator = call_->device->allocator();
    *place = reinterpret_cast<std::uint64_t>(allocator.allocate(bytes, call_->stream, allocator.context));
    *address = *place;
    *error = *place == 0 ? cuda_out_of_memory : 0;
    return true;
}

bool ScratchScope::release(std::uint64_t address) {
    std::uint64_t *const place = std::find(taken_.begin(), taken_.end(), address);
    if (place == taken_.end()) return false;
    *place = 0;
    const Device::Allocator &allocator = call_->device->allocator();
    void *const memory = reinterpret_cast<void *>(address); // NOLINT(performance-no-int-to-ptr): it came as a pointer
    allocator.release(memory, call_->stream, allocator.context);
    return true;
}

} // namespace qconv

// Scratch of kernels is kept for the next call on the same stream, unless the program has a pool of its own; memory of
// a layer is given back, since other streams may use it.
bool halide_can_reuse_device_allocations(void *user_context) {
    const qconv::DeviceCall *call = qconv::call_of(user_context);
    return call == nullptr || (!call->arrays.empty() && call->device->allocator().allocate == nullptr);
}

void *halide_cuda_get_symbol(void *, const char *name) {
    return qconv::cuda_symbol(name);
}

int halide_acquire_cl_context(void *user_context, void **context, void **queue, bool) {
    qconv::opencl_mutex.lock();
    const qconv::DeviceCall *call = qconv::call_of(user_context);
    if (call == nullptr) {
        *context = *queue = nullptr;
        return halide_error_code_success;
    }
    *context = call->device->context();
    *queue = call->stream;
    return halide_error_code_success;
}

int halide_release_cl_context(void *) {
    qconv::opencl_mutex.unlock();
    return halide_error_code_success;
}
