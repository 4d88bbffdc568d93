// Quantizes and packs a layer's weights for one kernel, as layout.h says.
#pragma once

#include <cstdint>
#include <span>

#include "memory.h"
#include "qconv/layout.h"
#include "qconv/qconv.h"

namespace qconv {

/// Everything a kernel reads besides x and the input's size.
struct PackedLayer {
    PackedShape shape{};
    Memory weight;
    Memory offset; // int32 or float [Og, groups]
    Memory edge;   // float [kernel_size + 1, Og, groups]
    std::int32_t pad_level = 0;
    std::int32_t dot_factor = 0;
    std::int32_t window_factor = 0;
    float scale = 1;
    float pad_delta = 0;

    std::size_t bytes() const { return weight.bytes() + offset.bytes() + edge.bytes(); }
};

/// weight [out_channels, in_channels/groups, kernel_size]; bias [out_channels], or empty for none.
/// The configuration is checked and mismatch(kernel, config) is NULL.
PackedLayer pack_layer(const qconv_kernel &kernel, const qconv_layer_config &config, std::span<const float> weight,
                       std::span<const float> bias);

} // namespace qconv
