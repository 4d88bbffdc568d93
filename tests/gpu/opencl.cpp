#include "gpu/opencl.h"

#include <cstring>
#include <stdexcept>

namespace qconv::test {
namespace {

void require(cl_int status, const char *what) {
    if (status != CL_SUCCESS) throw std::runtime_error(std::string(what) + " gave " + std::to_string(status));
}

} // namespace

std::unique_ptr<OpenCl> OpenCl::open(std::string *why) {
    std::unique_ptr<OpenCl> cl(new OpenCl);
    cl_platform_id platform = nullptr;
    cl_device_id device = nullptr;
    cl_uint count = 0;
    if (clGetPlatformIDs(1, &platform, &count) != CL_SUCCESS || count == 0) {
        *why = "no OpenCL platform is installed (Debian package pocl-opencl-icd)";
        return nullptr;
    }
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, &count) != CL_SUCCESS || count == 0) {
        *why = "the first OpenCL platform has no device";
        return nullptr;
    }
    char name[256] = "";
    clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof name - 1, name, nullptr);
    cl->name_ = name;
    cl_int status = CL_SUCCESS;
    cl->context_ = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &status);
    require(status, "clCreateContext");
    cl->queue_ = clCreateCommandQueue(cl->context_, device, 0, &status);
    require(status, "clCreateCommandQueue");
    if (qconv_device_open_opencl(cl->context_, cl->queue_, &cl->device_) != QCONV_OK) {
        throw std::runtime_error(qconv_last_error());
    }
    return cl;
}

OpenCl::~OpenCl() {
    qconv_device_close(device_);
    if (queue_ != nullptr) clReleaseCommandQueue(queue_);
    if (context_ != nullptr) clReleaseContext(context_);
}

void *DeviceTensor::place(std::span<const std::byte> bytes, GuardedArena::Edge edge) {
    drop();
    if (bytes.empty()) return nullptr;
    auto *host = static_cast<std::byte *>(arena_.place(bytes.size(), sizeof(float), edge));
    std::memcpy(host, bytes.data(), bytes.size());
    bytes_ = {host, bytes.size()};
    cl_int status = CL_SUCCESS;
    memory_ = clCreateBuffer(cl_.context(), CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, bytes.size(), host, &status);
    require(status, "clCreateBuffer");
    return memory_;
}

std::span<const std::byte> DeviceTensor::read() {
    if (memory_ == nullptr) return {};
    cl_int status = CL_SUCCESS;
    void *mapped =
        clEnqueueMapBuffer(cl_.queue(), memory_, CL_TRUE, CL_MAP_READ, 0, bytes_.size(), 0, nullptr, nullptr, &status);
    require(status, "clEnqueueMapBuffer");
    require(clEnqueueUnmapMemObject(cl_.queue(), memory_, mapped, 0, nullptr, nullptr), "clEnqueueUnmapMemObject");
    require(clFinish(cl_.queue()), "clFinish");
    return bytes_;
}

std::vector<float> DeviceTensor::floats() {
    const std::span<const std::byte> bytes = read();
    std::vector<float> values(bytes.size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

void DeviceTensor::drop() {
    if (memory_ != nullptr) clReleaseMemObject(memory_);
    memory_ = nullptr;
    bytes_ = {};
}

} // namespace qconv::test
