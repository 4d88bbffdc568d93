// A network of binary layers, chained through packed signs, beside the same layers with floats between them.
//
//     chain [--quick]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "qconv/qconv.hpp"

namespace {

constexpr int64_t kWidth = 1000; // positions of the input: ten seconds of frames

/// Numbers that look trained: small, of both signs, the same each time.
class Numbers {
public:
    float next(float low, float high) {
        state_ = state_ * 1664525U + 1013904223U;
        return low + (high - low) * static_cast<float>(state_ >> 8) / 16777216.0F;
    }
    std::vector<float> many(int64_t count, float low, float high) {
        std::vector<float> values(static_cast<size_t>(count));
        for (float &value : values)
            value = next(low, high);
        return values;
    }

private:
    uint32_t state_ = 1;
};

/// A convolution and the batch norm after it, whose numbers the network and the single layers share.
struct Stage {
    qconv_layer_config config;
    std::vector<float> weight;
    qconv::FoldedBatchNorm norm;
};

/// 40 real numbers a position to so many channels, then seven binary layers, dilated; the last gives 12 classes.
std::vector<Stage> make_stages(int64_t channels) {
    Numbers numbers;
    std::vector<Stage> stages;
    int64_t in = 40;
    for (int i = 0; i < 8; i++) {
        const int64_t out = i == 7 ? 12 : channels;
        qconv_layer_config config = i == 0 ? qconv::conv1d(in, out, 1) : qconv::qconv1d(in, out, 3);
        config.dilation = i == 0 ? 1 : 1 << (i % 3);
        qconv::pad_same(config);
        const int64_t window = in * config.kernel_size;
        std::vector<float> weight = numbers.many(out * window, -0.1F, 0.1F);
        // Of a batch norm: some channels turn the sign around, as trained ones do.
        const std::vector<float> mean = numbers.many(out, -3, 3),
                                 variance = numbers.many(out, 1, static_cast<float>(window));
        const std::vector<float> gamma = numbers.many(out, -0.5F, 1.5F), beta = numbers.many(out, -0.3F, 0.3F);
        stages.push_back({config, std::move(weight), qconv::FoldedBatchNorm(mean, variance, gamma, beta)});
        in = out;
    }
    return stages;
}

/// The layers one by one, each with its batch norm on floats.
class OneByOne {
public:
    explicit OneByOne(const std::vector<Stage> &stages) : stages_(stages) {
        for (const Stage &stage : stages)
            layers_.emplace_back(stage.config, stage.weight);
    }

    void forward(const std::vector<float> &x, std::vector<float> &y) {
        const std::vector<float> *input = &x;
        for (size_t i = 0; i < layers_.size(); i++) {
            std::vector<float> &output = i + 1 == layers_.size() ? y : between_[i % 2];
            const auto channels = static_cast<size_t>(stages_[i].config.out_channels);
            output.resize(channels * kWidth);
            layers_[i].forward(*input, 1, kWidth, output);
            for (size_t c = 0; c < channels; c++) {
                const float scale = stages_[i].norm.scale[c], shift = stages_[i].norm.shift[c];
                float *row = output.data() + c * kWidth;
                for (int64_t w = 0; w < kWidth; w++)
                    row[w] = scale * row[w] + shift;
            }
            input = &output;
        }
    }

private:
    const std::vector<Stage> &stages_;
    std::vector<qconv::Layer> layers_;
    std::vector<float> between_[2];
};

/// Median of so many calls, in microseconds.
template <typename Call>
double median(int calls, const Call &call) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> times;
    for (int i = 0; i < calls; i++) {
        const auto start = Clock::now();
        call();
        times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    std::nth_element(times.begin(), times.begin() + calls / 2, times.end());
    return times[static_cast<size_t>(calls / 2)];
}

qconv::Network make_network(const std::vector<Stage> &stages) {
    std::vector<qconv::NetworkLayer> layers;
    for (const Stage &s : stages)
        layers.push_back({.config = s.config, .weight = s.weight, .scale = s.norm.scale, .shift = s.norm.shift});
    return qconv::Network(layers);
}

void print_tensors(int64_t of_channels) {
    const std::vector<Stage> stages = make_stages(of_channels);
    const qconv::Network network = make_network(stages);
    std::printf("into layer   channels   tensor\n");
    for (size_t i = 0; i < stages.size(); i++) {
        const int64_t channels = stages[i].config.in_channels;
        const bool bits = network.packed(i);
        std::printf("%10zu   %8lld   %s, %lld bytes\n", i, static_cast<long long>(channels), bits ? "bits" : "float",
                    static_cast<long long>((bits ? (channels + 31) / 32 : channels) * kWidth * 4));
    }
}

/// Whether both ways agree. Prints a row of the table.
bool compare(int64_t channels, int calls) {
    const std::vector<Stage> stages = make_stages(channels);
    const qconv::Network network = make_network(stages);
    OneByOne one_by_one(stages);

    Numbers numbers;
    const std::vector<float> x = numbers.many(40 * kWidth, -1, 1);
    std::vector<float> chained(12 * kWidth), separate;
    network.forward(x, 1, kWidth, chained);
    one_by_one.forward(x, separate);
    // The chain takes the sign of the exact scale * y + shift, the loop above that of a rounded one: they may part
    // where it is within rounding of 0. A wrong sign in the last layer moves a result by 2 of several hundred.
    size_t different = 0;
    for (size_t i = 0; i < chained.size(); i++)
        different += std::abs(chained[i] - separate[i]) > 1e-3F * (1 + std::abs(separate[i]));
    const double bits = median(calls, [&] { network.forward(x, 1, kWidth, chained); });
    const double floats = median(calls, [&] { one_by_one.forward(x, separate); });
    std::printf("%8lld   %10.0f us   %10.0f us   %4.2fx   %zu of %zu\n", static_cast<long long>(channels), bits, floats,
                floats / bits, different, chained.size());
    return different == 0;
}

int run(int calls) {
    qconv::check(qconv_register_generic_kernels());
    qconv::check(qconv_set_num_threads(1));
    print_tensors(256);
    std::printf("\none thread, median of %d calls\nchannels   packed signs   floats between   gain   outputs differ\n",
                calls);
    bool same = true;
    for (const int64_t channels : {64, 128, 256, 512})
        same = compare(channels, calls) && same;
    return same ? 0 : 1;
}

} // namespace

int main(int argc, char **argv) {
    const bool quick = argc == 2 && std::strcmp(argv[1], "--quick") == 0;
    if (argc > 1 && !quick) {
        std::fprintf(stderr, "usage: %s [--quick]\n", argv[0]);
        return 2;
    }
    try {
        return run(quick ? 3 : 301);
    } catch (const qconv::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
