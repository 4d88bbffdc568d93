// qconv and another Halide library in one program: each keeps to its own handlers, on many threads at once.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "net.h"
#include "other.h"
#include "qconv/qconv.hpp"

namespace {

struct OtherContext {
    std::atomic<long> allocations{0}, releases{0}, errors{0};
};

// The other library's own handlers; its context is nothing that qconv knows.
void *allocate(void *context, size_t bytes) {
    static_cast<OtherContext *>(context)->allocations++;
    void *memory = nullptr;
    return posix_memalign(&memory, 128, bytes + 128) == 0 ? memory : nullptr;
}

void release(void *context, void *memory) {
    static_cast<OtherContext *>(context)->releases++;
    std::free(memory);
}

/// other(x, y) = 2 input(x) + y, by way of scratch memory and a parallel loop.
bool run_other(OtherContext &context) {
    constexpr int width = 64, height = 16;
    float input[width], output[width * height];
    for (int x = 0; x < width; x++)
        input[x] = static_cast<float>(x);
    halide_dimension_t in_shape[1] = {{0, width, 1}}, out_shape[2] = {{0, width, 1}, {0, height, width}};
    halide_buffer_t in{}, out{};
    in.host = reinterpret_cast<uint8_t *>(input), out.host = reinterpret_cast<uint8_t *>(output);
    in.type = out.type = halide_type_t(halide_type_float, 32);
    in.dimensions = 1, in.dim = in_shape;
    out.dimensions = 2, out.dim = out_shape;
    if (other(&context, &in, &out) != 0) return false;
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++)
            if (output[y * width + x] != 2.0F * static_cast<float>(x) + static_cast<float>(y)) return false;
    }
    return true;
}

} // namespace

int main() {
    halide_set_custom_malloc(allocate);
    halide_set_custom_free(release);
    try {
        OtherContext before;
        if (!run_other(before)) return std::puts("the other library is wrong before qconv"), 1;
        qconv::check(net_register());
        qconv_layer_config config = qconv::qconv1d(32, 32, 3);
        qconv::check(qconv_layer_config_pad_same(&config));
        const std::vector<float> weight(32 * 32 * 3, 1.0F);
        const qconv::Layer layer(config, weight);
        OtherContext after;
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; t++) {
            threads.emplace_back([&, t] {
                const std::vector<float> x(4 * 32 * 2000, 1.0F);
                std::vector<float> y(4 * 32 * 2000);
                for (int i = 0; i < 20; i++) {
                    if (t % 2 == 0) {
                        wrong += !run_other(after);
                    } else {
                        layer.forward(x, 4, 2000, y);
                        wrong += y[1] != 96.0F || y[0] != 32.0F;
                    }
                }
            });
        }
        for (std::thread &thread : threads)
            thread.join();
        // Each call of the other library allocates once; none of qconv's calls may come here, nor its context.
        std::printf("%s: %d wrong; the other library allocated %ld and released %ld of %d times\n", layer.kernel().name,
                    wrong.load(), after.allocations.load(), after.releases.load(), 2 * 20);
        return wrong != 0 || after.allocations != 40 || after.releases != 40;
    } catch (const qconv::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
