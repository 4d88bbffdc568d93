// A CUDA driver for machines without one: device memory is host memory, kernels are noted and not run. QCONV_FAKE_CUDA
// says what is wrong with it: old, no_gpu, small_gpu, no_memory, old_ptx; unified: all memory is a device's;
// anything else: nothing.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>

namespace {

constexpr int invalid_value = 1, out_of_memory = 2, no_device = 100, unsupported_ptx = 222;

bool mode(const char *name) {
    const char *set = std::getenv("QCONV_FAKE_CUDA");
    return set != nullptr && std::strcmp(set, name) == 0;
}

struct State {
    std::map<std::uint64_t, std::size_t> blocks;
    int launches = 0, copies_to_host = 0, allocations = 0, frees = 0, waits = 0;
    void *stream = nullptr; // of the last launch
    unsigned shared = 0;    // bytes of it, at most of any launch
};

State &state() {
    static State instance;
    return instance;
}

int copy(std::uint64_t to, std::uint64_t from, std::size_t bytes) {
    std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes);
    return 0;
}

} // namespace

extern "C" {

// For the tests.
int fake_cuda_launches() {
    return state().launches;
}
int fake_cuda_copies_to_host() {
    return state().copies_to_host;
}
int fake_cuda_allocations() {
    return state().allocations;
}
int fake_cuda_frees() {
    return state().frees;
}
int fake_cuda_waits() {
    return state().waits;
}
void *fake_cuda_stream() {
    return state().stream;
}
unsigned fake_cuda_most_shared_bytes() {
    return std::exchange(state().shared, 0U);
}

int cuDriverGetVersion(int *version) {
    *version = mode("old") ? 10020 : 13000;
    return 0;
}
int cuInit(unsigned) {
    return mode("no_gpu") ? no_device : 0;
}
int cuGetErrorName(int error, const char **name) {
    *name = error == no_device ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_OTHER";
    return 0;
}
int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}
int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
    *value = attribute == 75 ? (mode("small_gpu") ? 7 : 9) : attribute == 76 ? (mode("small_gpu") ? 5 : 0) : 1024;
    return 0;
}
int cuDeviceGetName(char *name, int length, int) {
    std::strncpy(name, "fake", static_cast<std::size_t>(length));
    return 0;
}
int cuDeviceTotalMem_v2(std::size_t *bytes, int) {
    *bytes = std::size_t{1} << 30;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int) {
    *context = &state();
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    return 0;
}
int cuCtxCreate_v2(void **context, unsigned, int) {
    *context = &state();
    return 0;
}
int cuCtxDestroy_v2(void *) {
    return 0;
}
int cuProfilerStop() {
    return 0;
}
int cuCtxGetApiVersion(void *, unsigned *version) {
    *version = 13000;
    return 0;
}
int cuCtxGetDevice(int *device) {
    *device = 0;
    return 0;
}
int cuCtxPushCurrent_v2(void *) {
    return 0;
}
int cuCtxPopCurrent_v2(void **context) {
    *context = &state();
    return 0;
}
int cuCtxSynchronize() {
    ++state().waits;
    return 0;
}
int cuStreamSynchronize(void *) {
    return 0;
}
int cuModuleLoadData(void **module, const void *) {
    *module = &state();
    return mode("old_ptx") ? unsupported_ptx : 0;
}
int cuModuleLoadDataEx(void **module, const void *image, unsigned, void *, void **) {
    return cuModuleLoadData(module, image);
}
int cuModuleUnload(void *) {
    return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *) {
    *function = module;
    return 0;
}
int cuMemAlloc_v2(std::uint64_t *address, std::size_t bytes) {
    if (mode("no_memory") && bytes > 4096) return out_of_memory;
    *address = reinterpret_cast<std::uint64_t>(std::malloc(bytes));
    state().blocks[*address] = bytes;
    ++state().allocations;
    return 0;
}
int cuMemFree_v2(std::uint64_t address) {
    ++state().frees;
    state().blocks.erase(address);
    std::free(reinterpret_cast<void *>(address));
    return 0;
}
int cuMemcpyHtoD_v2(std::uint64_t to, const void *from, std::size_t bytes) {
    return copy(to, reinterpret_cast<std::uint64_t>(from), bytes);
}
int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void *from, std::size_t bytes, void *) {
    return cuMemcpyHtoD_v2(to, from, bytes);
}
int cuMemcpyDtoH_v2(void *to, std::uint64_t from, std::size_t bytes) {
    ++state().copies_to_host;
    return copy(reinterpret_cast<std::uint64_t>(to), from, bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, std::uint64_t from, std::size_t bytes, void *) {
    return cuMemcpyDtoH_v2(to, from, bytes);
}
int cuMemcpyDtoD_v2(std::uint64_t to, std::uint64_t from, std::size_t bytes) {
    return copy(to, from, bytes);
}
int cuMemcpyDtoDAsync_v2(std::uint64_t to, std::uint64_t from, std::size_t bytes, void *) {
    return copy(to, from, bytes);
}
int cuMemcpy3D_v2(const void *) {
    return invalid_value;
}
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared, void *stream,
                   void **, void **) {
    ++state().launches;
    state().shared = std::max(state().shared, shared);
    state().stream = stream;
    return 0;
}
int cuPointerGetAttribute(void *value, int attribute, std::uint64_t address) {
    if (mode("unified")) {
        *static_cast<unsigned *>(value) = attribute == 2 ? 2 : 0;
        return 0;
    }
    for (const auto &[start, bytes] : state().blocks) {
        if (address < start || address >= start + bytes) continue;
        *static_cast<unsigned *>(value) = attribute == 2 ? 2 : 0;
        return 0;
    }
    return invalid_value;
}
}
