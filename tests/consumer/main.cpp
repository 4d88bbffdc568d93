// Two libraries of kernels and the runtime: runs a layer of each, and says which kernels did it.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "more.h"
#include "net.h"
#include "qconv/qconv.hpp"

namespace {

/// Plain loops: quantize, pad with -1, convolve with a kernel of three.
float expected(const std::vector<float> &x, const std::vector<float> &weight, int channels, int width, int o, int w) {
    float sum = 0;
    for (int c = 0; c < channels; c++) {
        for (int k = 0; k < 3; k++) {
            const int at = w + k - 1;
            const float input = at < 0 || at >= width || x[c * width + at] < 0 ? -1.0F : 1.0F;
            sum += input * (weight[(o * channels + c) * 3 + k] < 0 ? -1.0F : 1.0F);
        }
    }
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    const int out = argc > 1 ? std::atoi(argv[1]) : 32;
    constexpr int channels = 32, width = 100;
    try {
        qconv::check(net_register());
        qconv::check(more_register());
        unsigned state = 1;
        const auto random = [&state](std::size_t count) {
            std::vector<float> values(count);
            for (float &value : values) {
                state = state * 1664525U + 1013904223U;
                value = static_cast<float>(state >> 24) - 127.5F;
            }
            return values;
        };
        const std::vector<float> weight = random(out * channels * 3), x = random(channels * width);
        qconv_layer_config config = qconv::qconv1d(channels, out, 3);
        qconv::check(qconv_layer_config_pad_same(&config));
        const qconv::Layer layer(config, weight);
        std::vector<float> y(out * width);
        layer.forward(x, 1, width, y);
        int wrong = 0;
        for (int o = 0; o < out; o++) {
            for (int w = 0; w < width; w++)
                wrong += y[o * width + w] != expected(x, weight, channels, width, o, w);
        }
        qconv_layer_config plain;
        qconv_layer_config_init(&plain, QCONV_LAYER_CONV1D);
        plain.in_channels = 32, plain.out_channels = 4;
        const std::vector<float> ones(4 * 32, 1.0F), bias(4, 0.5F), input(32 * width, 0.25F);
        const qconv::Layer last(plain, ones, bias);
        std::vector<float> z(4 * width);
        last.forward(input, 1, width, z);
        for (const float value : z)
            wrong += value != 8.5F;
        std::printf("%s %s: %d wrong\n", layer.kernel().name, last.kernel().name, wrong);
        return wrong != 0;
    } catch (const qconv::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
