// Packs a layer's weights for its grad_input kernel, as layout.h says, and finds where each tap falls.
#pragma once

#include <cstdint>
#include <span>

#include "memory.h"
#include "pack_rows.h"
#include "qconv/layout.h"
#include "qconv/qconv.h"
#include "quantize.h"

namespace qconv {

/// The taps by the phase of the positions they reach.
struct TapTable {
    Memory shift;       // int32 [kernel_size]
    Memory phase_start; // int32 [stride + 1]
    Memory rank;        // int64 [kernel_size]: the place of each tap in `shift`; empty where that is the tap itself
    std::int32_t shift_min = 0;
    std::int32_t shift_max = 0;
};

/// Everything a grad_input kernel reads besides x, the state, gy and their size.
struct PackedGradInput {
    TapTable taps;
    std::int64_t blocks = 0; // f32f32: out_blocks of input channels; f32b1: chunks of output channels
    Memory weight;

    std::size_t bytes() const {
        return weight.bytes() + taps.shift.bytes() + taps.phase_start.bytes() + taps.rank.bytes();
    }
};

TapTable make_tap_table(const qconv_layer_config &config);

/// As pack_forward; the tap table is made by the first call.
void pack_grad_input(PackedGradInput &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
                     const TensorQuantizer &quantizer, std::span<const float> weight, PackScratch &scratch);

} // namespace qconv
