#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu_features.h"
#include "errors.h"
#include "network.h"
#include "qconv/layout.h"
#include "quantize.h"
#include "registry.h"

namespace qconv {
namespace {

Affine affine_of(const qconv_network_layer &layer) {
    const auto channels = static_cast<std::size_t>(layer.config.out_channels);
    const auto values = [channels](const float *data) {
        return std::span<const float>(data, data == nullptr ? 0 : channels);
    };
    return {values(layer.scale), values(layer.shift)};
}

void check_affine(const Affine &affine) {
    const auto check = [](const std::string &name, std::span<const float> values) {
        for (std::size_t c = 0; c < values.size(); ++c) {
            if (std::isfinite(values[c])) continue;
            throw_invalid(name + "[" + std::to_string(c) + "]", std::to_string(values[c]), "it must be finite");
        }
    };
    check("scale", affine.scale);
    check("shift", affine.shift);
}

bool same_layout(const qconv_kernel &a, const qconv_kernel &b) {
    return a.word_bits == b.word_bits && a.word_channels == b.word_channels && a.vector_words == b.vector_words &&
           a.out_block == b.out_block;
}

} // namespace

std::size_t sign_bytes(std::int64_t batch, std::int64_t channels, std::int64_t width) {
    return static_cast<std::size_t>(batch * sign_words(channels) * width) * sizeof(std::uint32_t);
}

NetworkStage::NetworkStage(const qconv_network_layer &layer, bool from_bits, const qconv_layer_config *next)
    : config_(layer.config), from_bits_(from_bits) {
    const Affine affine = affine_of(layer);
    check_affine(affine);
    const CpuFeatures features = cpu_features();
    if (from_bits) {
        bits_to_float_ = &select_kernel(config_, QCONV_OP_BITS_TO_FLOAT, features);
        const auto elements = static_cast<std::size_t>(config_.out_channels * window_elements(config_));
        const std::span<const float> weights(layer.weight, elements);
        PackScratch levels;
        const TensorQuantizer quantizer(weight_quantizer(config_), weights, levels);
        pack_forward(packed_, *bits_to_float_, config_, quantizer, weights, {}, pack_scratch_);
    } else {
        layer_ = create_layer(config_, layer.weight, layer.bias);
    }
    if (next != nullptr) {
        const Step step = input_step(*next);
        to_bits_ = &select_kernel(config_, QCONV_OP_TO_BITS, features);
        rule_ = make_rule(config_.out_channels, affine, step);
        if (from_bits) {
            bits_to_bits_ = find_kernel(config_, QCONV_OP_BITS_TO_BITS, features);
            // Both read the same packed weights.
            if (bits_to_bits_ != nullptr && !same_layout(*bits_to_bits_, *bits_to_float_)) bits_to_bits_ = nullptr;
        }
        if (bits_to_bits_ != nullptr) limits_ = make_limits(*bits_to_bits_, config_, packed_, affine, step);
    } else if (!affine.scale.empty() || !affine.shift.empty()) {
        affine_ = Memory(2 * static_cast<std::size_t>(config_.out_channels) * sizeof(float));
        auto *values = affine_.as<float>();
        for (std::int64_t c = 0; c < config_.out_channels; ++c) {
            values[c] = affine.scale_of(c);
            values[config_.out_channels + c] = affine.shift_of(c);
        }
    }
    // The caller's string need not live on.
    config_.kernel = nullptr;
}

bool NetworkStage::packs_in_one_step(std::int64_t width) const {
    return bits_to_bits_ != nullptr && !reaches_over_both_ends(config_, packed_, width);
}

Plan NetworkStage::plan(const qconv_kernel &kernel, const CallSize &size) const {
    return make_plan(kernel, config_, size.batch, size.width, size.threads);
}

std::size_t NetworkStage::float_bytes(const CallSize &size) const {
    if (to_bits_ == nullptr || packs_in_one_step(size.width)) return 0;
    const std::int64_t elements = size.batch * config_.out_channels * width_out(config_, size.width);
    return align_up(static_cast<std::size_t>(elements) * sizeof(float));
}

std::size_t NetworkStage::scratch_bytes(const CallSize &size) const {
    if (packs_in_one_step(size.width)) return plan(*bits_to_bits_, size).workspace();
    const std::size_t bytes = from_bits_ ? plan(*bits_to_float_, size).workspace()
                                         : layer_->workspace_size(size.batch, size.width, size.threads);
    if (to_bits_ == nullptr) return bytes;
    const ToBitsPlan packing(size.batch, config_.out_channels, width_out(config_, size.width), size.threads);
    return std::max(bytes, packing.workspace());
}

void NetworkStage::to_float(const void *x, const CallSize &size, float *y, Workspace scratch) const {
    if (!from_bits_) {
        return layer_->forward(static_cast<const float *>(x), size.batch, size.width, y, scratch, size.threads);
    }
    const Plan plan = this->plan(*bits_to_float_, size);
    CallContext context(scratch.data, plan.slab, plan.workers);
    call_bits_to_float(*bits_to_float_, config_, packed_, plan,
                       {.x = static_cast<const std::uint32_t *>(x), .batch = size.batch, .width = size.width}, y,
                       context);
}

void NetworkStage::scale_and_shift(float *values, std::int64_t batch, std::int64_t width) const {
    const std::int64_t channels = config_.out_channels;
    const auto *scale = affine_.as<float>(), *shift = scale + channels;
    for (std::int64_t row = 0; row < batch * channels; ++row, values += width) {
        const double a = scale[row % channels], b = shift[row % channels];
        std::transform(values, values + width, values, [a, b](float y) { return static_cast<float>(a * y + b); });
    }
}

void NetworkStage::forward(const void *x, const CallSize &size, void *y, float *floats, Workspace scratch) const {
    const std::int64_t width = width_out(config_, size.width);
    if (to_bits_ == nullptr) {
        auto *values = static_cast<float *>(y);
        to_float(x, size, values, scratch);
        if (affine_.data() != nullptr) scale_and_shift(values, size.batch, width);
        return;
    }
    auto *signs = static_cast<std::uint32_t *>(y);
    if (packs_in_one_step(size.width)) {
        const Plan plan = this->plan(*bits_to_bits_, size);
        CallContext context(scratch.data, plan.slab, plan.workers);
        call_bits_to_bits(*bits_to_bits_, config_, packed_, limits_, plan,
                          {.x = static_cast<const std::uint32_t *>(x), .batch = size.batch, .width = size.width}, signs,
                          context);
        return;
    }
    to_float(x, size, floats, scratch);
    const ToBitsPlan packing(size.batch, config_.out_channels, width, size.threads);
    call_to_bits(*to_bits_, rule_, packing, floats, size.batch, config_.out_channels, width, signs, scratch.data);
}

} // namespace qconv
