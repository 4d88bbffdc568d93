#include "config.h"

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "errors.h"

namespace qconv {
namespace {

constexpr std::array<const char *, QCONV_QUANTIZER_KINDS> quantizer_names{
    "identity", "sign", "approxsign", "swishsign", "steheaviside", "inputdorefa", "weightdorefa", "progressive_sign"};

std::string all_quantizer_names() {
    std::string text;
    for (const char *name : quantizer_names)
        text += (text.empty() ? "" : ", ") + std::string(name);
    return text;
}

// A view: calls check their width several times, and a string of that length would be allocated.
void check_range(std::string_view name, std::int64_t value, std::int64_t low, std::int64_t high) {
    if (value < low || value > high) {
        throw_invalid(std::string(name), std::to_string(value),
                      "it must be " + std::to_string(low) + ".." + std::to_string(high));
    }
}

void check_finite(const std::string &name, float value) {
    if (!std::isfinite(value)) throw_invalid(name, std::to_string(value), "it must be finite");
}

void check_quantizer(const std::string &name, const qconv_quantizer &quantizer) {
    const auto kind = static_cast<std::int64_t>(quantizer.kind);
    check_range(name + ".kind", kind, 0, QCONV_QUANTIZER_KINDS - 1);
    if (quantizer.kind == QCONV_INPUTDOREFA || quantizer.kind == QCONV_WEIGHTDOREFA) {
        check_range(name + ".bits", quantizer.bits, 1, 8);
    }
    if (quantizer.kind == QCONV_PROGRESSIVE_SIGN && quantizer.training != 0) {
        check_finite(name + ".alpha", quantizer.alpha);
        check_finite(name + ".beta", quantizer.beta);
        check_finite(name + ".scale", quantizer.scale);
        if (quantizer.alpha <= 0) {
            throw_invalid(name + ".alpha", std::to_string(quantizer.alpha), "it must be positive");
        }
    }
}

void check_mixed(const std::string &name, const qconv_quantizer &first, const qconv_quantizer &next, float mix) {
    check_quantizer(name + "_quantization", first);
    if (!(mix >= 0 && mix <= 1)) throw_invalid(name + "_mix", std::to_string(mix), "it must be 0..1");
    if (mix > 0) check_quantizer(name + "_next", next);
}

qconv_quantizer simplified(qconv_quantizer quantizer) {
    if (quantizer.kind == QCONV_PROGRESSIVE_SIGN && quantizer.training == 0) quantizer.kind = QCONV_SIGN;
    return quantizer;
}

MixedQuantizer mixed(const qconv_quantizer &first, const qconv_quantizer &next, float mix) {
    if (mix == 1) return {simplified(next), simplified(next), 0};
    if (mix == 0) return {simplified(first), simplified(first), 0};
    return {simplified(first), simplified(next), mix};
}

MixedQuantizer identity() {
    const qconv_quantizer quantizer = default_quantizer(QCONV_IDENTITY);
    return {quantizer, quantizer, 0};
}

} // namespace

qconv_quantizer default_quantizer(qconv_quantizer_kind kind) {
    return {.kind = kind,
            .bits = 1,
            .alpha = 4,
            .beta = kind == QCONV_PROGRESSIVE_SIGN ? 10.0F : 5.0F,
            .scale = 0,
            .training = 0};
}

const char *quantizer_name(qconv_quantizer_kind kind) noexcept {
    const auto index = static_cast<std::size_t>(kind);
    return index < quantizer_names.size() ? quantizer_names[index] : nullptr;
}

qconv_quantizer_kind quantizer_from_name(std::string_view name) {
    for (std::size_t i = 0; i < quantizer_names.size(); ++i) {
        if (name == quantizer_names[i]) return static_cast<qconv_quantizer_kind>(i);
    }
    throw_invalid("quantizer name", "\"" + std::string(name) + "\"", "it must be one of " + all_quantizer_names());
}

qconv_layer_config default_config(qconv_layer_kind kind) {
    qconv_layer_config config{};
    config.kind = kind;
    config.in_channels = 1;
    config.out_channels = 1;
    config.kernel_size = 1;
    config.stride = 1;
    config.dilation = 1;
    config.groups = 1;
    config.pad_value = kind == QCONV_LAYER_CONV1D ? 0.0F : -1.0F;
    const qconv_quantizer sign = default_quantizer(QCONV_SIGN);
    config.input_quantization = config.input_next = sign;
    config.weight_quantization = config.weight_next = sign;
    config.gradient_cancellation_threshold = std::numeric_limits<float>::quiet_NaN();
    config.directions = QCONV_FORWARD;
    return config;
}

void pad_same(qconv_layer_config &config) {
    check_range("kernel_size", config.kernel_size, 1, max_extent);
    check_range("dilation", config.dilation, 1, max_extent);
    if (config.stride != 1) throw_invalid("stride", std::to_string(config.stride), "padding 'same' needs stride 1");
    const std::int64_t total = tap_span(config);
    check_range("dilation * (kernel_size - 1)", total, 0, max_extent);
    config.pad_left = total / 2;
    config.pad_right = total - config.pad_left;
}

void check_config(const qconv_layer_config &config) {
    check_range("kind", static_cast<std::int64_t>(config.kind), 0, QCONV_LAYER_KINDS - 1);
    check_range("groups", config.groups, 1, max_elements);
    for (const auto &[name, channels] :
         {std::pair{"in_channels", config.in_channels}, std::pair{"out_channels", config.out_channels}}) {
        check_range(name, channels, 1, max_elements);
        if (channels % config.groups != 0) {
            throw_invalid(name, std::to_string(channels),
                          "it must be a multiple of groups (" + std::to_string(config.groups) + ")");
        }
    }
    check_range("kernel_size", config.kernel_size, 1, max_extent);
    check_range("stride", config.stride, 1, max_stride);
    check_range("dilation", config.dilation, 1, max_extent);
    check_range("pad_left", config.pad_left, 0, max_extent);
    check_range("pad_right", config.pad_right, 0, max_extent);
    check_range("dilation * (kernel_size - 1)", tap_span(config), 0, max_span);
    // No product below can overflow: 2^31 * 2^24 is less than 2^63, and each is bounded before the next factor.
    const std::int64_t window = window_elements(config);
    check_range("in_channels / groups * kernel_size", window, 1, max_elements);
    check_range("elements of weight", window * config.out_channels, 1, max_elements);
    check_finite("pad_value", config.pad_value);
    if (config.kind == QCONV_LAYER_CONV1D && config.pad_value != 0) {
        throw_invalid("pad_value", std::to_string(config.pad_value), "conv1d pads with 0");
    }
    check_range("directions", config.directions, 1, QCONV_TRAINING);
    check_range("width", config.width, 0, std::numeric_limits<std::int64_t>::max());
    if (config.kind == QCONV_LAYER_QCONV1D) {
        check_mixed("input", config.input_quantization, config.input_next, config.input_mix);
        if (config.gradient_cancellation_threshold < 0) {
            throw_invalid("gradient_cancellation_threshold", std::to_string(config.gradient_cancellation_threshold),
                          "it must be at least 0, or NaN for none");
        }
    }
    if (config.kind != QCONV_LAYER_CONV1D) {
        check_mixed("weight", config.weight_quantization, config.weight_next, config.weight_mix);
    }
}

void check_batch(std::int64_t batch) {
    check_range("batch", batch, 0, max_elements);
}

std::int64_t width_out(const qconv_layer_config &config, std::int64_t width) {
    check_range("width", width, 1, max_span);
    const std::int64_t padded = width + config.pad_left + config.pad_right;
    check_range("width + pad_left + pad_right", padded, 1, max_span);
    const std::int64_t last = padded - tap_span(config) - 1;
    if (last < 0) {
        throw_invalid("width", std::to_string(width),
                      "with its padding (" + std::to_string(padded) + ") it must be at least the window, " +
                          std::to_string(tap_span(config) + 1));
    }
    return last / config.stride + 1;
}

MixedQuantizer input_quantizer(const qconv_layer_config &config) {
    if (config.kind != QCONV_LAYER_QCONV1D) return identity();
    return mixed(config.input_quantization, config.input_next, config.input_mix);
}

MixedQuantizer weight_quantizer(const qconv_layer_config &config) {
    if (config.kind == QCONV_LAYER_CONV1D) return identity();
    return mixed(config.weight_quantization, config.weight_next, config.weight_mix);
}

} // namespace qconv
