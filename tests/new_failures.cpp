// Memory that runs out at the n-th allocation of any kind, for every n: no crash, no leak, a status that says so. The
// C++ allocations of the library, which qconv_set_allocator does not replace, go through operator new below.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "qconv/qconv.h"

namespace {

// Counted while `armed`, on the thread that calls the library; the library's other threads allocate nothing.
thread_local bool armed = false;
thread_local int64_t allowed = 0;
std::atomic<int64_t> outstanding{0};

void *take(std::size_t bytes, std::size_t alignment) {
    if (armed && --allowed < 0) return nullptr;
    void *memory = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
    if (memory != nullptr) ++outstanding;
    return memory;
}

void give(void *memory) {
    if (memory != nullptr) --outstanding;
    std::free(memory);
}

void *take_or_throw(std::size_t bytes, std::size_t alignment) {
    void *memory = take(bytes, alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

} // namespace

void *operator new(std::size_t bytes) {
    return take_or_throw(bytes, alignof(std::max_align_t));
}
void *operator new(std::size_t bytes, std::align_val_t alignment) {
    return take_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void *operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t &) noexcept {
    return take(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void *memory) noexcept {
    give(memory);
}
void operator delete(void *memory, std::size_t) noexcept {
    give(memory);
}
void operator delete(void *memory, std::align_val_t) noexcept {
    give(memory);
}
void operator delete(void *memory, std::size_t, std::align_val_t) noexcept {
    give(memory);
}

namespace {

int failures = 0;

void expect(bool condition, const char *job, int64_t n, const char *what) {
    if (condition) return;
    std::fprintf(stderr, "%s, %lld allocations allowed: %s (last error: %s)\n", job, static_cast<long long>(n), what,
                 qconv_last_error());
    ++failures;
}

/// Runs the job with 0, 1, 2... allocations until it succeeds. keeps: what it then made stays.
void inject(const char *job, const std::function<qconv_status()> &body, bool keeps = false) {
    int64_t n = 0;
    for (qconv_status status = QCONV_INTERNAL; status != QCONV_OK && n < 10'000; ++n) {
        const int64_t before = outstanding;
        allowed = n;
        armed = true;
        status = body();
        armed = false;
        expect(outstanding == before || (keeps && status == QCONV_OK), job, n, "memory was not given back");
        if (status == QCONV_OK) break;
        expect(status == QCONV_OUT_OF_MEMORY, job, n, qconv_status_name(status));
        expect(std::strstr(qconv_last_error(), "memory") != nullptr, job, n, "the message does not say so");
    }
    std::printf("%s: succeeds with %lld allocations, fails clearly with fewer\n", job, static_cast<long long>(n));
}

struct Problem {
    qconv_layer_config config;
    std::vector<float> weight, x, y, gx, gw, state;
    static constexpr int64_t batch = 2, width = 200;

    explicit Problem(qconv_layer_kind kind) {
        qconv_layer_config_init(&config, kind);
        config.in_channels = config.out_channels = 48;
        config.kernel_size = 3;
        qconv_layer_config_pad_same(&config);
        config.directions = QCONV_TRAINING;
        weight.assign(48 * 48 * 3, 0.5F);
        gw = weight;
        x.assign(batch * 48 * width, -0.25F);
        gx = y = x;
        state.assign(batch * 48 * 2 * ((width + 31) / 32), 0.0F);
    }

    qconv_status train() {
        qconv_layer *layer = nullptr;
        qconv_status status = qconv_layer_create(&config, weight.data(), nullptr, &layer);
        if (status == QCONV_OK) {
            status = qconv_layer_forward_training(layer, x.data(), batch, width, y.data(), state.data(),
                                                  state.size() * sizeof(float), nullptr, 0);
        }
        if (status == QCONV_OK) {
            status = qconv_layer_backward(layer, x.data(), state.data(), state.size() * sizeof(float), y.data(), batch,
                                          width, gx.data(), gw.data(), nullptr, nullptr, 0);
        }
        if (status == QCONV_OK) status = qconv_layer_set_weights(layer, weight.data(), nullptr);
        qconv_layer_destroy(layer);
        return status;
    }

    qconv_status forward() {
        qconv_layer *layer = nullptr;
        qconv_status status = qconv_layer_create(&config, weight.data(), nullptr, &layer);
        if (status == QCONV_OK) {
            status = qconv_layer_forward(layer, x.data(), batch, width, y.data(), nullptr, 0);
        }
        qconv_layer_destroy(layer);
        return status;
    }

    qconv_status chain() {
        const qconv_network_layer layers[] = {{config, weight.data(), nullptr, nullptr, nullptr},
                                              {config, weight.data(), nullptr, x.data(), x.data()}};
        qconv_network *network = nullptr;
        qconv_status status = qconv_network_create(layers, 2, &network);
        if (status == QCONV_OK) {
            status = qconv_network_forward(network, x.data(), batch, width, y.data(), nullptr, 0);
        }
        qconv_network_destroy(network);
        return status;
    }
};

} // namespace

int main() {
    if (qconv_register_generic_kernels() != QCONV_OK) return 1;
    for (const int threads : {1, 2}) {
        qconv_set_num_threads(threads);
        Problem quantized(QCONV_LAYER_QCONV1D), real(QCONV_LAYER_CONV1D), half(QCONV_LAYER_NOACT);
        // Threads of the pool, and what is made once, before anything fails.
        if (quantized.train() != QCONV_OK || quantized.chain() != QCONV_OK) return 1;
        inject("QConv1d, forward", [&] { return quantized.forward(); });
        inject("QConv1d, a training step", [&] { return quantized.train(); });
        inject("QConv1d_NoAct, a training step", [&] { return half.train(); });
        inject("conv1d, a training step", [&] { return real.train(); });
        inject("a network of two layers", [&] { return quantized.chain(); });
        inject("an error", [&] {
            qconv_layer_config bad = quantized.config;
            bad.stride = 0;
            const qconv_status status = qconv_layer_config_check(&bad);
            return status == QCONV_INVALID_ARGUMENT ? QCONV_OK : status;
        });
    }
    // Registering: all or nothing.
    const qconv_kernel row = *qconv_kernel_at(0);
    static qconv_kernel copy;
    copy = row;
    copy.name = "copy";
    const size_t before = qconv_kernel_count();
    const auto add = [&] {
        const qconv_status status = qconv_register_kernels(&copy, 1);
        expect(qconv_kernel_count() == before + (status == QCONV_OK ? 1 : 0), "registering", 0, "count is wrong");
        return status;
    };
    inject("registering a kernel", add, true);
    return failures == 0 ? 0 : 1;
}
