// A network of compiled convolutions with batch norms after them. What is common to the examples is in network.cpp;
// what makes each network its own is its layers.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "qconv/qconv.hpp"

/// Channels x frames, row after row.
struct Signal {
    int64_t channels = 0, frames = 0;
    std::vector<float> values;
};

void add(Signal &signal, const Signal &other);
void hardtanh(Signal &signal);

/// A convolution and the batch norm after it.
struct Block {
    std::string name;
    qconv::Layer conv;
    size_t float_bytes; // of its weights before packing
    std::vector<float> scale, shift;

    /// out = conv(in) * scale + shift, for each channel; `out` keeps its memory from call to call.
    void run(const Signal &in, Signal &out) const;
};

class Network {
public:
    static constexpr int64_t kCoefficients = 12, kSpeakers = 9;

    /// Reads the weights below `folder`. `kernel` as in qconv_layer_config: "@avx2", or null for the registry's choice.
    Network(const std::filesystem::path &folder, const char *kernel);

    /// One recording, [12, frames], to one number a speaker. For one thread at a time: it keeps its signals.
    std::array<float, kSpeakers> classify(const float *recording, int64_t frames);

    const std::vector<Block> &blocks() const { return blocks_; }

private:
    /// The layers of layers.json, in order. In layers.cpp.
    static std::vector<qconv_layer_config> layer_configs();
    /// From input_ to h_, what is averaged over time; next_ is free to use. In layers.cpp.
    void run_blocks();

    std::vector<Block> blocks_;
    std::vector<float> linear_weight_, linear_bias_;
    Signal input_, h_, next_;
};
