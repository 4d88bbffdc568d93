// A layer's configuration: defaults, names, validation, and the sizes that follow from it.
#pragma once

#include <cstdint>
#include <string_view>

#include "qconv/qconv.h"

namespace qconv {

// Kernels compute positions in int32. These bounds keep every intermediate position far from its end.
constexpr std::int64_t max_stride = 1 << 16;
constexpr std::int64_t max_extent = 1 << 24;      // kernel_size, dilation, padding
constexpr std::int64_t max_span = 1 << 30;        // padded width; taps with their dilation
constexpr std::int64_t max_elements = 2147483647; // of one buffer that a kernel sees

qconv_quantizer default_quantizer(qconv_quantizer_kind kind);
const char *quantizer_name(qconv_quantizer_kind kind) noexcept;
qconv_quantizer_kind quantizer_from_name(std::string_view name);

qconv_layer_config default_config(qconv_layer_kind kind);
void pad_same(qconv_layer_config &config);

/// Throws an Error that names the first field that is wrong.
void check_config(const qconv_layer_config &config);

void check_batch(std::int64_t batch);

/// Output width of a checked configuration; throws when the width is out of range or the window does not fit.
std::int64_t width_out(const qconv_layer_config &config, std::int64_t width);

inline std::int64_t channels_in_group(const qconv_layer_config &config) {
    return config.in_channels / config.groups;
}
inline std::int64_t out_in_group(const qconv_layer_config &config) {
    return config.out_channels / config.groups;
}
/// Elements that one output sums over.
inline std::int64_t window_elements(const qconv_layer_config &config) {
    return channels_in_group(config) * config.kernel_size;
}
/// Positions from the first tap to the last.
inline std::int64_t tap_span(const qconv_layer_config &config) {
    return config.dilation * (config.kernel_size - 1);
}

/// (1 - mix) * first + mix * next. With mix 0, the only value besides those strictly between 0 and 1, next is unused.
struct MixedQuantizer {
    qconv_quantizer first;
    qconv_quantizer next;
    float mix;
};
/// The quantizers a layer applies: identity where its kind has none; a mix of 1 becomes next alone; progressive_sign is
/// always its training form, for in evaluation it is sign.
MixedQuantizer input_quantizer(const qconv_layer_config &config);
MixedQuantizer weight_quantizer(const qconv_layer_config &config);

} // namespace qconv
