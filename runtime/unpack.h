// The quantized weights back from what a kernel reads, as layout.h says.
#pragma once

#include <span>

#include "pack.h"
#include "pack_grad_input.h"
#include "qconv/qconv.h"

namespace qconv {

/// weight [out_channels, in_channels/groups, kernel_size] becomes the values that were packed: what the quantizer made
/// of the layer's weights. Packing these, kept as they are, gives the same bits as packing the layer's.
void unpack(const PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
            std::span<float> weight);
void unpack(const PackedGradInput &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
            std::span<float> weight);

/// The bias that was packed: empty where layers have none, zeros where this one was given none.
std::span<const float> unpacked_bias(const PackedForward &packed, const qconv_layer_config &config);
std::span<const float> unpacked_bias(const PackedGradInput &packed, const qconv_layer_config &config);

} // namespace qconv
