// The network that train.py describes.
#include "network.h"

std::vector<qconv_layer_config> Network::layer_configs() {
    constexpr int64_t kWidth = 64, kWide = 96; // channels
    std::vector<qconv_layer_config> configs = {
        qconv::conv1d(kCoefficients, kWidth, 5), qconv::qconv1d(kWidth, kWidth, 3), qconv::qconv1d(kWidth, kWidth, 3),
        qconv::qconv1d_noact(kWidth, kWide, 3),  qconv::qconv1d(kWide, kWide, 3),
    };
    configs[2].dilation = 2;
    configs[4].input_quantization = qconv::quantizer("inputdorefa", 4);
    configs[4].weight_quantization = qconv::quantizer("weightdorefa", 4);
    for (qconv_layer_config &config : configs)
        qconv::pad_same(config);
    return configs;
}

void Network::run_blocks() {
    blocks_[0].run(input_, h_);
    for (const size_t residual : {1U, 2U}) {
        blocks_[residual].run(h_, next_);
        add(next_, h_);
        std::swap(h_, next_);
    }
    hardtanh(h_);
    blocks_[3].run(h_, next_);
    blocks_[4].run(next_, h_);
    hardtanh(h_);
}
