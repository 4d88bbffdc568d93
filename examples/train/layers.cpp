// The network that train.py describes.
#include "network.h"

std::vector<qconv_layer_config> Network::layer_configs() {
    constexpr int64_t kWidth = 256, kResiduals = 8;
    std::vector<qconv_layer_config> configs = {qconv::conv1d(kCoefficients, kWidth, 5)};
    for (int64_t n = 0; n < kResiduals; n++) {
        configs.push_back(qconv::qconv1d(kWidth, kWidth, 3));
        configs.back().dilation = 1 + n % 2;
    }
    for (qconv_layer_config &config : configs)
        qconv::pad_same(config);
    return configs;
}

void Network::run_blocks() {
    blocks_[0].run(input_, h_);
    for (size_t n = 1; n < blocks_.size(); n++) {
        blocks_[n].run(h_, next_);
        add(next_, h_);
        std::swap(h_, next_);
    }
    hardtanh(h_);
}
