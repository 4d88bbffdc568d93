// Quantizes and packs a layer's weights for the forward kernel, as layout.h says.
#pragma once

#include <cstdint>
#include <span>

#include "memory.h"
#include "pack_rows.h"
#include "qconv/layout.h"
#include "qconv/qconv.h"
#include "quantize.h"

namespace qconv {

/// Everything a forward kernel reads besides x and the input's size.
struct PackedForward {
    PackedShape shape{};
    Memory weight;
    Memory offset; // int32 or float [Og, groups]
    Memory edge;   // float [kernel_size + 1, Og, groups]; zeros where no kernel reads it
    std::int32_t pad_level = 0;
    std::int32_t dot_factor = 0;
    std::int32_t window_factor = 0;
    float scale = 1;
    float pad_delta = 0;

    std::size_t bytes() const { return weight.bytes() + offset.bytes() + edge.bytes(); }
};

/// weight [out_channels, in_channels/groups, kernel_size]; bias [out_channels], or empty for none; quantizer: of this
/// weight. The configuration is checked and mismatch(kernel, config) is NULL. Into what an earlier call packed for the
/// same kernel and configuration it packs without allocating.
void pack_forward(PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
                  const TensorQuantizer &quantizer, std::span<const float> weight, std::span<const float> bias,
                  PackScratch &scratch);

} // namespace qconv
