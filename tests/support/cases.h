// Quantizer pairs and data for the kernel tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "support/seed.h"

namespace qconv::test {

/// A layer kind with its quantizers, as they stand at one moment.
struct Pair {
    std::string name; // "inputdorefa4/sign", "conv1d+bias"
    qconv_layer_kind kind;
    qconv_quantizer input{}, input_next{};
    float input_mix = 0;
    qconv_quantizer weight{}, weight_next{};
    float weight_mix = 0;
    bool bias = false;
    bool thin = false; // also on emulators
};

const std::vector<Pair> &pairs();

/// A quantizer with every field set; no defaults of the library are involved.
qconv_quantizer quantizer(qconv_quantizer_kind kind, int bits = 1);

void apply(const Pair &pair, qconv_layer_config &config);

enum class Data {
    Random,  // with exact zeros, -0.0, denormals, infinities and rounding ties where the quantizer defines them
    WithNaN, // also NaN, for quantizers that are binary
    Extreme, // every value at a limit of its quantizer, all of one output channel's weights at the same limit
};

/// x of `count` values for the config's input quantizer.
std::vector<float> make_input(const qconv_layer_config &config, int64_t count, Data data, Random &random);
/// The weights of a layer.
std::vector<float> make_weight(const qconv_layer_config &config, Data data, Random &random);
std::vector<float> make_bias(const qconv_layer_config &config, Random &random);

} // namespace qconv::test
