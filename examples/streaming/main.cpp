// A front-end for audio that never ends: 16 kHz samples in, a vector of 64 features every 10 ms.
//
//     streaming             a synthetic signal in chunks of many lengths, compared with the whole signal at once
//     streaming -           samples from standard input (arecord -q -f S16_LE -r 16000 -t raw | streaming -)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "streaming.h"

namespace {

constexpr int kRate = 16000;
constexpr int64_t kFeatures = 64;

std::vector<float> numbers(int64_t count, float low, float high) {
    static uint32_t state = 1;
    std::vector<float> values(static_cast<size_t>(count));
    for (float &value : values) {
        state = state * 1664525U + 1013904223U;
        value = low + (high - low) * static_cast<float>(state >> 8) / 16777216.0F;
    }
    return values;
}

void add(StreamingNetwork &network, qconv_layer_config config, const std::vector<float> &weight) {
    network.add(StreamingLayer(config, weight, {}, numbers(config.out_channels, 0.5F, 1.5F),
                               numbers(config.out_channels, -0.5F, 0.5F)));
}

/// Windows of 25 ms every 10 ms by 64 band filters, then three binary layers that look back 15 frames.
StreamingNetwork make_front_end() {
    StreamingNetwork network;
    qconv_layer_config bands = qconv::conv1d(1, kFeatures, 400);
    bands.stride = 160;
    std::vector<float> filters;
    for (int64_t band = 0; band < kFeatures; band++) {
        const double frequency = 60 * std::pow(1.075, static_cast<double>(band)) / kRate;
        for (int i = 0; i < 400; i++) {
            const double hann = 0.5 - 0.5 * std::cos(2 * M_PI * (i + 0.5) / 400);
            filters.push_back(static_cast<float>(hann * std::cos(2 * M_PI * frequency * i) / 100));
        }
    }
    add(network, bands, filters);
    for (const int64_t dilation : {1, 2, 4}) {
        qconv_layer_config binary = qconv::qconv1d(kFeatures, kFeatures, 3);
        binary.dilation = dilation;
        add(network, binary, numbers(kFeatures * kFeatures * 3, -1, 1));
    }
    return network;
}

/// A tone that climbs, with noise.
Signal make_signal(int64_t samples) {
    Signal signal(1, samples);
    const std::vector<float> noise = numbers(samples, -0.1F, 0.1F);
    for (int64_t i = 0; i < samples; i++) {
        const double t = static_cast<double>(i) / kRate;
        signal.values[static_cast<size_t>(i)] =
            static_cast<float>(0.5 * std::sin(2 * M_PI * (100 + 400 * t) * t)) + noise[static_cast<size_t>(i)];
    }
    return signal;
}

int compare() {
    StreamingNetwork network = make_front_end();
    const Signal signal = make_signal(3 * kRate);
    const Signal whole = network.all_at_once(signal);
    int wrong = 0;
    for (const int64_t chunk : {1, 37, 160, 512, 4096, 48000}) {
        network.reset();
        Signal stream(kFeatures, whole.width);
        int64_t frames = 0, longest = 0;
        for (int64_t at = 0; at < signal.width; at += chunk) {
            Signal next(1, std::min(chunk, signal.width - at));
            std::copy_n(signal.row(0) + at, next.width, next.row(0));
            const auto start = std::chrono::steady_clock::now();
            const Signal y = network.push(std::move(next));
            const auto took = std::chrono::steady_clock::now() - start;
            longest = std::max<int64_t>(longest, std::chrono::duration_cast<std::chrono::microseconds>(took).count());
            if (frames + y.width > whole.width) return 1;
            for (int64_t c = 0; c < kFeatures; c++)
                std::copy_n(y.row(c), y.width, stream.row(c) + frames);
            frames += y.width;
        }
        const bool same = frames == whole.width && stream.values == whole.values;
        wrong += !same;
        std::printf("chunks of %5lld samples: %lld frames, %s the whole signal at once; longest chunk %lld us\n",
                    static_cast<long long>(chunk), static_cast<long long>(frames), same ? "equal to" : "NOT equal to",
                    static_cast<long long>(longest));
    }
    return wrong == 0 ? 0 : 1;
}

int listen() {
    StreamingNetwork network = make_front_end();
    std::vector<int16_t> samples(kRate / 20);
    while (const size_t count = std::fread(samples.data(), sizeof(int16_t), samples.size(), stdin)) {
        Signal next(1, static_cast<int64_t>(count));
        std::transform(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(count), next.values.begin(),
                       [](int16_t v) { return static_cast<float>(v) / 32768; });
        const Signal y = network.push(std::move(next));
        for (int64_t frame = 0; frame < y.width; frame++) {
            for (int64_t c = 0; c < kFeatures; c++)
                std::putchar(y.row(c)[frame] >= 0 ? '#' : '.');
            std::putchar('\n');
        }
        std::fflush(stdout);
    }
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    const bool from_input = argc == 2 && std::strcmp(argv[1], "-") == 0;
    if (argc > 1 && !from_input) {
        std::fprintf(stderr, "usage: %s [-]\n", argv[0]);
        return 2;
    }
    try {
        qconv::check(qconv_register_generic_kernels());
        return from_input ? listen() : compare();
    } catch (const qconv::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
