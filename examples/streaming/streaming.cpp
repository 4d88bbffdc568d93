#include "streaming.h"

#include <algorithm>

namespace {

int64_t window(const qconv_layer_config &config) {
    return config.dilation * (config.kernel_size - 1) + 1;
}

qconv_layer_config padded(qconv_layer_config config) {
    config.pad_left = window(config) - 1;
    return config;
}

} // namespace

StreamingLayer::StreamingLayer(const qconv_layer_config &config, std::span<const float> weight,
                               std::span<const float> bias, std::vector<float> scale, std::vector<float> shift)
    : config_(config),
      layer_(config, weight, bias),
      padded_(padded(config), weight, bias),
      scale_(std::move(scale)),
      shift_(std::move(shift)),
      pending_(config.in_channels) {
    reset();
}

void StreamingLayer::reset() {
    pending_ = Signal(config_.in_channels, window(config_) - 1);
    std::fill(pending_.values.begin(), pending_.values.end(), config_.pad_value);
}

Signal StreamingLayer::push(const Signal &next) {
    Signal all(config_.in_channels, pending_.width + next.width);
    for (int64_t c = 0; c < all.channels; c++) {
        std::copy_n(pending_.row(c), pending_.width, all.row(c));
        std::copy_n(next.row(c), next.width, all.row(c) + pending_.width);
    }
    const bool complete = all.width >= window(config_);
    Signal y(config_.out_channels, complete ? layer_.width_out(all.width) : 0);
    if (complete) layer_.forward(all.values, 1, all.width, y.values);
    // The first sample of the next window. A stride beyond the window skips samples that are not there yet.
    const int64_t used = std::min(y.width * config_.stride, all.width);
    pending_ = Signal(all.channels, all.width - used);
    for (int64_t c = 0; c < all.channels; c++)
        std::copy_n(all.row(c) + used, pending_.width, pending_.row(c));
    return scaled(std::move(y));
}

Signal StreamingLayer::all_at_once(const Signal &signal) const {
    Signal y(config_.out_channels, padded_.width_out(signal.width));
    padded_.forward(signal.values, 1, signal.width, y.values);
    return scaled(std::move(y));
}

Signal StreamingLayer::scaled(Signal y) const {
    for (int64_t c = 0; c < y.channels; c++) {
        const float scale = scale_[static_cast<size_t>(c)], shift = shift_[static_cast<size_t>(c)];
        std::transform(y.row(c), y.row(c) + y.width, y.row(c), [=](float v) { return scale * v + shift; });
    }
    return y;
}

Signal StreamingNetwork::push(Signal next) {
    for (StreamingLayer &layer : layers_)
        next = layer.push(next);
    return next;
}

Signal StreamingNetwork::all_at_once(Signal signal) const {
    for (const StreamingLayer &layer : layers_)
        signal = layer.all_at_once(signal);
    return signal;
}

void StreamingNetwork::reset() {
    for (StreamingLayer &layer : layers_)
        layer.reset();
}
