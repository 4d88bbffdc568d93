// The CUDA side of the runtime without a GPU: what it says where there is no driver, and, over a fake one, how it asks
// for memory, streams and launches, and what it says when they are refused. Run once for each state of the driver.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "support/catch.h"

namespace {

constexpr int kChannels = 64, kTaps = 3, kWidth = 100;

template <typename Function>
Function driver(const char *name) {
    return reinterpret_cast<Function>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

/// The device of a driver that works.
struct Device {
    Device() { REQUIRE(qconv_device_open_cuda(0, nullptr, &device) == QCONV_OK); }
    ~Device() { qconv_device_close(device); }
    qconv_device *device = nullptr;
};

struct Layer {
    explicit Layer(uint32_t directions = QCONV_TRAINING) : weight(kChannels * kChannels * kTaps, 0.5f) {
        REQUIRE(qconv_register_gpu_kernels() == QCONV_OK);
        qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
        config.in_channels = config.out_channels = kChannels;
        config.kernel_size = kTaps;
        config.directions = directions;
        REQUIRE(qconv_layer_config_pad_same(&config) == QCONV_OK);
    }
    ~Layer() { qconv_layer_destroy(layer); }
    qconv_status create(const Device &on) {
        return qconv_layer_create_on(on.device, &config, weight.data(), nullptr, &layer);
    }
    qconv_layer_config config{};
    std::vector<float> weight;
    qconv_layer *layer = nullptr;
};

void *device_memory(size_t bytes) {
    uint64_t address = 0;
    REQUIRE(driver<int (*)(uint64_t *, size_t)>("cuMemAlloc_v2")(&address, bytes) == 0);
    return reinterpret_cast<void *>(address);
}

/// A program's own device memory.
struct Pool {
    static void *allocate(size_t bytes, void *stream, void *context) {
        auto *self = static_cast<Pool *>(context);
        if (self->empty) return nullptr;
        self->strays += stream != self->stream;
        ++self->allocated;
        return self->memory.emplace_back(bytes + 256).data();
    }
    static void release(void *memory, void *stream, void *context) {
        auto *self = static_cast<Pool *>(context);
        self->strays += stream != self->stream || memory == nullptr;
        ++self->released;
    }
    void *stream;
    std::vector<std::vector<char>> memory{};
    bool empty = false;
    int allocated = 0, released = 0, strays = 0;
};

bool says(const std::string &text) {
    INFO(qconv_last_error());
    return std::string(qconv_last_error()).find(text) != std::string::npos;
}

void refuses(const char *text) {
    qconv_device *device = nullptr;
    CHECK(qconv_device_open_cuda(0, nullptr, &device) == QCONV_NO_DEVICE);
    CHECK(device == nullptr);
    CHECK(says(text));
}

void unsupported(const char *text) {
    const char *why = nullptr;
    CHECK(qconv_cpu_supports("cuda", &why) == 0);
    CHECK(std::strstr(why, text) != nullptr);
    refuses(text);
}

TEST_CASE("cuda: none", "[none]") {
    if (dlopen("libcuda.so.1", RTLD_NOW) != nullptr) {
        WARN("skipped: this machine has a CUDA driver");
        return;
    }
    unsupported("no CUDA driver is installed");
    // Nothing else changes: kernels are registered, and refused with a reason.
    Layer layer;
    CHECK(qconv_layer_create(&layer.config, layer.weight.data(), nullptr, &layer.layer) == QCONV_NO_KERNEL);
    CHECK(says("is for"));
    layer.config.kernel = "b1b1_w32_c32_o64@cuda";
    CHECK(qconv_layer_create(&layer.config, layer.weight.data(), nullptr, &layer.layer) == QCONV_NO_KERNEL);
    CHECK(says("is for CUDA"));
}

TEST_CASE("cuda: old", "[old]") {
    unsupported("of version 10.2; kernels need 11.0");
}

TEST_CASE("cuda: no_gpu", "[no_gpu]") {
    unsupported("CUDA_ERROR_NO_DEVICE");
}

TEST_CASE("cuda: small_gpu", "[small_gpu]") {
    refuses("compute capability 7.5; kernels need 8.0");
}

TEST_CASE("cuda: no_memory", "[no_memory]") {
    const Device device;
    Layer layer;
    CHECK(layer.create(device) == QCONV_OUT_OF_MEMORY);
    CHECK(says("OUT_OF_MEMORY"));
    CHECK(layer.layer == nullptr);
}

TEST_CASE("cuda: old_ptx", "[old_ptx]") {
    const Device device;
    Layer layer;
    REQUIRE(layer.create(device) == QCONV_OK);
    void *x = device_memory(4 * kChannels * kWidth), *y = device_memory(4 * kChannels * kWidth);
    CHECK(qconv_layer_forward_on(layer.layer, x, 1, kWidth, y, nullptr) == QCONV_DEVICE_FAILED);
    CHECK(says("cuModuleLoadData failed"));
}

TEST_CASE("cuda: works", "[works]") {
    const Device device;
    Layer layer;
    REQUIRE(layer.create(device) == QCONV_OK);
    CHECK(qconv_cpu_supports("cuda", nullptr) == 1);
    const auto launches = driver<int (*)()>("fake_cuda_launches");
    const auto copies = driver<int (*)()>("fake_cuda_copies_to_host");
    const auto last_stream = driver<void *(*)()>("fake_cuda_stream");
    const size_t bytes = 4 * kChannels * kWidth;
    void *x = device_memory(bytes), *y = device_memory(bytes), *gy = device_memory(bytes), *gx = device_memory(bytes);
    void *gw = device_memory(layer.weight.size() * 4);
    size_t state_bytes = 0;
    REQUIRE(qconv_layer_state_size(layer.layer, 1, kWidth, &state_bytes) == QCONV_OK);
    void *state = device_memory(state_bytes);
    int here = 0;
    void *stream = &here;

    SECTION("calls run on the caller's stream, and copy nothing") {
        for (void *one : {stream, static_cast<void *>(nullptr)}) {
            const int before = launches();
            REQUIRE(qconv_layer_forward_training_on(layer.layer, x, 1, kWidth, y, state, state_bytes, one) == QCONV_OK);
            CHECK(last_stream() == one);
            REQUIRE(qconv_layer_backward_on(layer.layer, nullptr, state, state_bytes, gy, 1, kWidth, gx, gw, nullptr,
                                            one) == QCONV_OK);
            CHECK(last_stream() == one);
            CHECK(launches() >= before + 4);
        }
        CHECK(copies() == 0);
    }
    SECTION("scratch comes from the program's pool, of the call's stream, and goes back within the call") {
        Pool pool{.stream = stream};
        // A kernel that keeps its input outside of the threads' shared memory.
        layer.config.kernel = "b1b1_w32_c32_o64@cuda";
        qconv_layer_destroy(layer.layer);
        REQUIRE(layer.create(device) == QCONV_OK);
        REQUIRE(qconv_device_set_allocator(device.device, Pool::allocate, Pool::release, &pool) == QCONV_OK);
        const auto allocations = driver<int (*)()>("fake_cuda_allocations");
        const int before = allocations();
        REQUIRE(qconv_layer_forward_training_on(layer.layer, x, 1, kWidth, y, state, state_bytes, stream) == QCONV_OK);
        const int forward = pool.allocated;
        CHECK(forward > 0);
        REQUIRE(qconv_layer_backward_on(layer.layer, nullptr, state, state_bytes, gy, 1, kWidth, gx, gw, nullptr,
                                        stream) == QCONV_OK);
        CHECK(pool.allocated > forward);
        CHECK(pool.released == pool.allocated);
        CHECK(pool.strays == 0);
        CHECK(allocations() == before);
        pool.empty = true;
        CHECK(qconv_layer_forward_on(layer.layer, x, 1, kWidth, y, stream) == QCONV_OUT_OF_MEMORY);
        CHECK(says("OUT_OF_MEMORY"));
        CHECK(pool.released == pool.allocated);
        // New weights are the library's own memory.
        const int taken = pool.allocated;
        REQUIRE(qconv_layer_set_weights(layer.layer, layer.weight.data(), nullptr) == QCONV_OK);
        CHECK(pool.allocated == taken);
        CHECK(qconv_device_set_allocator(device.device, Pool::allocate, nullptr, nullptr) == QCONV_INVALID_ARGUMENT);
        REQUIRE(qconv_device_set_allocator(device.device, nullptr, nullptr, nullptr) == QCONV_OK);
        REQUIRE(qconv_layer_forward_on(layer.layer, x, 1, kWidth, y, stream) == QCONV_OK);
        CHECK(pool.allocated == taken);
        CHECK(allocations() > before);
    }
    SECTION("a tile's input takes what CUDA grants at most, in every kernel that keeps one") {
        constexpr unsigned granted = 48 << 10;
        const auto most_shared = driver<unsigned (*)()>("fake_cuda_most_shared_bytes");
        most_shared();
        int kernels = 0;
        for (size_t i = 0; const qconv_kernel *kernel = qconv_kernel_at(i); ++i) {
            if (kernel->tile_input == 0 || std::strcmp(kernel->target, "cuda") != 0) continue;
            ++kernels;
            const std::string name = std::string(kernel->name) + "@cuda";
            const bool joins = kernel->word_bits / kernel->element_bits > kernel->word_channels;
            for (const int64_t channels : {kernel->word_channels, joins ? 1 : 5 * kernel->word_channels + 1}) {
                // The longest window that the kernel takes: one more tap is too many.
                Layer longest(QCONV_FORWARD);
                qconv_layer_config &config = longest.config;
                config.kernel = name.c_str();
                config.in_channels = channels, config.out_channels = 1, config.stride = 2;
                config.pad_left = config.pad_right = 0;
                if (kernel->path == QCONV_PATH_INT8) {
                    config.input_quantization = config.weight_quantization = qconv_quantizer_default(QCONV_INPUTDOREFA);
                    config.weight_quantization.kind = QCONV_WEIGHTDOREFA;
                    config.input_quantization.bits = config.weight_quantization.bits = 2;
                }
                int64_t fits = 0;
                for (int64_t step = 1 << 15; step > 0; step /= 2) {
                    config.kernel_size = fits + step;
                    longest.weight.assign(static_cast<size_t>(channels * config.kernel_size), 0.5f);
                    if (longest.create(device) == QCONV_OK) {
                        fits += step;
                        qconv_layer_destroy(longest.layer);
                        longest.layer = nullptr;
                    } else {
                        REQUIRE(says("a tile of its input exceeds shared memory"));
                    }
                }
                INFO(name << ", " << channels << " channels, " << fits << " taps");
                REQUIRE(fits > 0);
                config.kernel_size = fits;
                REQUIRE(longest.create(device) == QCONV_OK);
                void *in = device_memory(static_cast<size_t>(4 * channels * (fits + 1000))), *out = device_memory(4000);
                REQUIRE(qconv_layer_forward_on(longest.layer, in, 1, fits + 1000, out, stream) == QCONV_OK);
                const unsigned shared = most_shared();
                CHECK(shared <= granted);
                CHECK(shared > granted / 2); // no layer is turned away that would fit well
            }
        }
        CHECK(kernels > 0);
    }
    SECTION("weights that kernels may read are neither overwritten nor freed before these are done") {
        const auto waits = driver<int (*)()>("fake_cuda_waits");
        const auto frees = driver<int (*)()>("fake_cuda_frees");
        REQUIRE(qconv_layer_forward_on(layer.layer, x, 1, kWidth, y, stream) == QCONV_OK);
        const int before = waits(), freed = frees();
        REQUIRE(qconv_layer_set_weights(layer.layer, layer.weight.data(), nullptr) == QCONV_OK);
        CHECK(waits() > before);
        CHECK(frees() == freed);
        const int then = waits();
        qconv_layer_destroy(layer.layer);
        layer.layer = nullptr;
        CHECK(waits() > then);
        CHECK(frees() > freed);
    }
    SECTION("host memory is refused, by its name") {
        std::vector<float> host(kChannels * kWidth);
        const int before = launches();
        CHECK(qconv_layer_forward_on(layer.layer, host.data(), 1, kWidth, y, stream) == QCONV_INVALID_ARGUMENT);
        CHECK(says("x is 0x"));
        CHECK(says("it must be memory of the device"));
        CHECK(qconv_layer_forward_on(layer.layer, x, 1, kWidth, host.data(), stream) == QCONV_INVALID_ARGUMENT);
        CHECK(says("y is 0x"));
        CHECK(qconv_layer_forward_on(layer.layer, nullptr, 1, kWidth, y, stream) == QCONV_INVALID_ARGUMENT);
        CHECK(qconv_layer_forward_on(layer.layer, x, 1, 65535 * 128 + 1, y, stream) == QCONV_INVALID_ARGUMENT);
        CHECK(says("the width of the result is 8388481"));
        CHECK(qconv_layer_backward_on(layer.layer, nullptr, state, state_bytes, host.data(), 1, kWidth, gx, gw, nullptr,
                                      stream) == QCONV_INVALID_ARGUMENT);
        CHECK(says("grad_output is 0x"));
        CHECK(launches() == before);
    }
    SECTION("the two kinds of calls are not mixed up") {
        std::vector<float> host(kChannels * kWidth);
        CHECK(qconv_layer_forward(layer.layer, host.data(), 1, kWidth, host.data(), nullptr, 0) ==
              QCONV_INVALID_ARGUMENT);
        CHECK(says("on a device"));
        CHECK(qconv_layer_backward_on(layer.layer, nullptr, state, state_bytes, gy, 0, kWidth, gx, gw, nullptr,
                                      stream) == QCONV_INVALID_ARGUMENT);
        CHECK(says("batch is 0"));
        CHECK(qconv_layer_backward_on(layer.layer, nullptr, state, 3, gy, 1, kWidth, gx, gw, nullptr, stream) ==
              QCONV_INVALID_ARGUMENT);
        CHECK(says("state_bytes is 3"));
        CHECK(qconv_layer_backward_on(layer.layer, nullptr, state, state_bytes, gy, 1, kWidth, gx, gw, gy, stream) ==
              QCONV_INVALID_ARGUMENT);
        CHECK(says("grad_bias is for conv1d only"));
        layer.config.input_quantization = qconv_quantizer_default(QCONV_WEIGHTDOREFA);
        qconv_layer *other = nullptr;
        CHECK(qconv_layer_create_on(device.device, &layer.config, layer.weight.data(), nullptr, &other) ==
              QCONV_INVALID_ARGUMENT);
        CHECK(says("weightdorefa"));
        qconv_device *second = nullptr;
        CHECK(qconv_device_open_cuda(7, nullptr, &second) == QCONV_INVALID_ARGUMENT);
        CHECK(says("ordinal is 7"));
    }
}

} // namespace
