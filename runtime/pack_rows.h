// What packing is made of: rows of quantized weights, joined bit by bit.
#pragma once

#include <cstdint>
#include <span>

#include "config.h"
#include "memory.h"

namespace qconv {

/// The weights of one layer, row by row: a row holds one output channel's, [channel in group][tap].
struct WeightRows {
    std::int64_t groups, channels, outputs, taps; // channels and outputs of one group
    std::span<const float> weight;

    WeightRows(const qconv_layer_config &config, std::span<const float> weights)
        : groups(config.groups),
          channels(channels_in_group(config)),
          outputs(out_in_group(config)),
          taps(config.kernel_size),
          weight(weights) {}

    std::int64_t elements() const { return channels * taps; }
    std::span<const float> row(std::int64_t group, std::int64_t output) const {
        return weight.subspan(static_cast<std::size_t>((group * outputs + output) * elements()),
                              static_cast<std::size_t>(elements()));
    }
};

/// Memory of `elements`, zeroed when it is new: packing writes the same places each time. Throws when a kernel could
/// not index it.
void provide(Memory &memory, std::int64_t elements, std::size_t element_bytes);

/// Bytes that join_bits takes at once on the widest CPUs.
constexpr std::int64_t joining_width = 64;

/// joined[i] = sum over b < 8 of levels[i + b] << b, for every eighth 0 <= i < count. Levels are 0 or 1.
void join_neighbours(const std::uint8_t *levels, std::int64_t count, std::uint8_t *joined);

/// joined[i] = sum over b < bits of levels[i + b * distance] << b, for 0 <= i < count. Levels are 0 or 1.
/// Of 8 bits it is fastest where count is a multiple of joining_width.
void join_bits(const std::uint8_t *levels, std::int64_t distance, int bits, std::int64_t count, std::uint8_t *joined);

} // namespace qconv
