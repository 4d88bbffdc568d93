// Causal convolutions over a signal that arrives in pieces of any length: the state is the samples that windows still
// to come will read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "qconv/qconv.hpp"

/// Channels x positions, row after row.
struct Signal {
    int64_t channels = 0, width = 0;
    std::vector<float> values;

    explicit Signal(int64_t of_channels, int64_t of_width = 0)
        : channels(of_channels), width(of_width), values(static_cast<size_t>(of_channels * of_width)) {}
    float *row(int64_t channel) { return values.data() + channel * width; }
    const float *row(int64_t channel) const { return values.data() + channel * width; }
};

/// One layer whose windows end at the newest sample, with a scale and shift after it. The layer's own padding must be
/// 0: before the first sample lies the state, filled with pad_value. So for a QConv1d pad_value is -1 or 1, which its
/// quantizer leaves as they are; for conv1d and QConv1d_NoAct anything goes.
class StreamingLayer {
public:
    StreamingLayer(const qconv_layer_config &config, std::span<const float> weight, std::span<const float> bias,
                   std::vector<float> scale, std::vector<float> shift);

    /// Takes the next samples of every channel, and gives what windows they complete: none, or many.
    Signal push(const Signal &next);
    /// Forgets all samples.
    void reset();

    /// What push gives in all, from the whole signal at once: by the layer's left padding instead of a state.
    Signal all_at_once(const Signal &signal) const;

private:
    Signal scaled(Signal y) const;

    qconv_layer_config config_;
    qconv::Layer layer_, padded_;
    std::vector<float> scale_, shift_;
    Signal pending_; // samples that no window to come can do without
};

/// Layers one after another.
class StreamingNetwork {
public:
    void add(StreamingLayer layer) { layers_.push_back(std::move(layer)); }
    Signal push(Signal next);
    Signal all_at_once(Signal signal) const;
    void reset();

private:
    std::vector<StreamingLayer> layers_;
};
