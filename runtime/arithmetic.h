// How an integer path represents a layer: which kernels can, with what weight elements, factors and scale.
#pragma once

#include <cstdint>

#include "qconv/qconv.h"
#include "quantize.h"

namespace qconv {

/// One output is scale * (offset + dot_factor * dot + window_factor * window), exact in int32 before the scale, with
///     dot    = sum of a * v, window = sum of a: a is the input level less the kernel's level_offset, v =
///     element_factor * level + element_offset offset = offset_per_weight * (sum of v) + offset_per_element * (number
///     of elements).
/// On b1b1, v is the odd integer of the weight's bit-planes and dot stands for -2 * sum 2^(p+j) * popcount(...).
struct IntegerArithmetic {
    std::int32_t element_factor, element_offset;
    std::int64_t offset_per_weight, offset_per_element;
    std::int32_t dot_factor, window_factor;
    double scale;
};

/// Precondition: mismatch() below is NULL, and the kernel's path is b1b1 or int8.
IntegerArithmetic integer_arithmetic(const qconv_kernel &kernel, const qconv_layer_config &config);

/// Whether no sum of this layer on this kernel can leave int32. True on the f32 paths.
bool int32_fits(const qconv_kernel &kernel, const qconv_layer_config &config);

/// Padded input positions that the width_block outputs of a tile reach, the taps of whole words counted.
std::int64_t tile_positions(const qconv_kernel &kernel, const qconv_layer_config &config);

/// Whether the kernel computes one position at a time, in vectors across output channels: popcounts for few positions.
inline bool across_outputs(const qconv_kernel &kernel) {
    return kernel.path == QCONV_PATH_B1B1 && kernel.width_block == 1;
}

/// NULL if the kernel can compute the layer exactly as documented; else what stands against it.
const char *mismatch(const qconv_kernel &kernel, const qconv_layer_config &config);

} // namespace qconv
