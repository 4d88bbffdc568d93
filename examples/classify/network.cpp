#include "network.h"

#include <algorithm>

#include "npy.h"

namespace {

/// The five layers of layers.json.
std::vector<qconv_layer_config> layer_configs() {
    constexpr int64_t kWidth = 64, kWide = 96; // channels
    std::vector<qconv_layer_config> configs = {
        qconv::conv1d(Network::kCoefficients, kWidth, 5),
        qconv::qconv1d(kWidth, kWidth, 3),
        qconv::qconv1d(kWidth, kWidth, 3),
        qconv::qconv1d_noact(kWidth, kWide, 3),
        qconv::qconv1d(kWide, kWide, 3),
    };
    configs[2].dilation = 2;
    configs[4].input_quantization = qconv::quantizer("inputdorefa", 4);
    configs[4].weight_quantization = qconv::quantizer("weightdorefa", 4);
    for (qconv_layer_config &config : configs)
        qconv::pad_same(config);
    return configs;
}

void hardtanh(Signal &signal) {
    for (float &v : signal.values)
        v = std::clamp(v, -1.0F, 1.0F);
}

void add(Signal &signal, const Signal &other) {
    for (size_t i = 0; i < signal.values.size(); i++)
        signal.values[i] += other.values[i];
}

} // namespace

void Block::run(const Signal &in, Signal &out) const {
    out.channels = static_cast<int64_t>(scale.size());
    out.frames = in.frames;
    out.values.resize(static_cast<size_t>(out.channels * out.frames));
    conv.forward(in.values, 1, in.frames, out.values);
    float *row = out.values.data();
    for (size_t c = 0; c < scale.size(); c++, row += out.frames) {
        for (int64_t t = 0; t < out.frames; t++)
            row[t] = row[t] * scale[c] + shift[c];
    }
}

Network::Network(const std::filesystem::path &folder, const char *kernel) {
    for (qconv_layer_config config : layer_configs()) {
        config.kernel = kernel;
        const std::string n = std::to_string(blocks_.size());
        const std::vector<float> weight = read_npy(folder / ("conv" + n + "_weight.npy"));
        std::vector<float> bias;
        if (config.kind == QCONV_LAYER_CONV1D) bias = read_npy(folder / ("conv" + n + "_bias.npy"));
        blocks_.push_back({"conv" + n, qconv::Layer(config, weight, bias), weight.size() * sizeof(float),
                           read_npy(folder / ("bn" + n + "_scale.npy")), read_npy(folder / ("bn" + n + "_shift.npy"))});
    }
    linear_weight_ = read_npy(folder / "linear_weight.npy");
    linear_bias_ = read_npy(folder / "linear_bias.npy");
}

std::array<float, Network::kSpeakers> Network::classify(const float *recording, int64_t frames) {
    input_.channels = kCoefficients;
    input_.frames = frames;
    input_.values.assign(recording, recording + kCoefficients * frames);
    blocks_[0].run(input_, h_);
    for (const int residual : {1, 2}) {
        blocks_[static_cast<size_t>(residual)].run(h_, next_);
        add(next_, h_);
        std::swap(h_, next_);
    }
    hardtanh(h_);
    blocks_[3].run(h_, next_);
    blocks_[4].run(next_, h_);
    hardtanh(h_);

    std::array<float, kSpeakers> logits{};
    std::copy(linear_bias_.begin(), linear_bias_.end(), logits.begin());
    for (int64_t c = 0; c < h_.channels; c++) {
        const float *row = h_.values.data() + c * frames;
        float sum = 0;
        for (int64_t t = 0; t < frames; t++)
            sum += row[t];
        const float mean = sum / static_cast<float>(frames);
        for (int64_t s = 0; s < kSpeakers; s++) {
            logits[static_cast<size_t>(s)] += linear_weight_[static_cast<size_t>(s * h_.channels + c)] * mean;
        }
    }
    return logits;
}
