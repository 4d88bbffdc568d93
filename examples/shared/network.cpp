#include "network.h"

#include <algorithm>

#include "npy.h"

void add(Signal &signal, const Signal &other) {
    for (size_t i = 0; i < signal.values.size(); i++)
        signal.values[i] += other.values[i];
}

void hardtanh(Signal &signal) {
    for (float &v : signal.values)
        v = std::clamp(v, -1.0F, 1.0F);
}

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
    run_blocks();

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
