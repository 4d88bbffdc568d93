#include "pack_grad_input.h"

#include <algorithm>
#include <cstring>

#include "config.h"

namespace qconv {
namespace {

// The phase that tap k reaches, and how far: (phase + pad_left - k * dilation) = shift * stride.
struct Reach {
    std::int64_t phase, shift;

    Reach(const qconv_layer_config &config, std::int64_t tap) {
        const std::int64_t back = tap * config.dilation - config.pad_left;
        phase = (back % config.stride + config.stride) % config.stride;
        shift = (phase - back) / config.stride;
    }
};

// Calls store(tap, its place among the taps).
template <typename Store>
void for_each_tap(const TapTable &taps, std::int64_t count, Store store) {
    const auto *rank = taps.rank.as<std::int64_t>();
    for (std::int64_t k = 0; k < count; ++k)
        store(k, rank == nullptr ? k : rank[k]);
}

// Entries of every table of one chunk, interleaved and in the order of the taps. joined: one row a table.
void store_entries(const TapTable &taps, const WeightRows &rows, std::int64_t tables, const std::uint8_t *joined,
                   std::uint8_t *entries) {
    const std::int64_t elements = rows.elements();
    for (std::int64_t u = 0; u < tables; ++u, joined += elements) {
        if (taps.rank.data() == nullptr) {
            for (std::int64_t i = 0; i < elements; ++i)
                entries[i * tables + u] = joined[i];
            continue;
        }
        for (std::int64_t c = 0; c < rows.channels; ++c) {
            for_each_tap(taps, rows.taps, [&](std::int64_t k, std::int64_t t) {
                entries[(c * rows.taps + t) * tables + u] = joined[c * rows.taps + k];
            });
        }
    }
}

void pack_signs(PackedGradInput &packed, const qconv_kernel &kernel, const WeightRows &rows,
                const TensorQuantizer &quantizer, PackScratch &scratch) {
    const std::int64_t elements = rows.elements();
    const std::int64_t chunk_outputs = std::int64_t{kernel.tables} * kernel.table_channels;
    packed.blocks = ceil_div(rows.outputs, chunk_outputs);
    provide(packed.weight, rows.groups * packed.blocks * elements * kernel.tables, sizeof(std::uint8_t));
    std::uint8_t *levels = scratch.take<std::uint8_t>(elements * (1 + kernel.tables));
    std::uint8_t *joined = levels + elements;
    auto *entries = packed.weight.as<std::uint8_t>();
    for (std::int64_t g = 0; g < rows.groups; ++g) {
        for (std::int64_t z = 0; z < packed.blocks; ++z, entries += elements * kernel.tables) {
            std::memset(joined, 0, static_cast<std::size_t>(elements * kernel.tables));
            for (std::int64_t u = 0; u < kernel.tables; ++u) {
                const std::int64_t first = (z * kernel.tables + u) * kernel.table_channels;
                const std::int64_t outputs = std::clamp<std::int64_t>(rows.outputs - first, 0, kernel.table_channels);
                for (std::int64_t o = first + outputs - 1; o >= first; --o) { // the last one becomes the highest bit
                    quantizer.levels(rows.row(g, o), levels);
                    append_bit(levels, elements, joined + u * elements);
                }
            }
            store_entries(packed.taps, rows, kernel.tables, joined, entries);
        }
    }
}

void pack_floats(PackedGradInput &packed, const qconv_kernel &kernel, const WeightRows &rows,
                 const TensorQuantizer &quantizer, PackScratch &scratch) {
    const std::int64_t lanes = kernel.out_block;
    packed.blocks = ceil_div(rows.channels, lanes);
    provide(packed.weight, rows.groups * packed.blocks * rows.outputs * rows.taps * lanes, sizeof(float));
    auto *floats = packed.weight.as<float>();
    float *values = scratch.take<float>(rows.elements());
    for (std::int64_t g = 0; g < rows.groups; ++g) {
        for (std::int64_t o = 0; o < rows.outputs; ++o) {
            quantizer.values(rows.row(g, o), values);
            for (std::int64_t c = 0; c < rows.channels; ++c) {
                const std::int64_t block = g * packed.blocks + c / lanes;
                float *result = floats + (block * rows.outputs + o) * rows.taps * lanes + c % lanes;
                for_each_tap(packed.taps, rows.taps,
                             [&](std::int64_t k, std::int64_t t) { result[t * lanes] = values[c * rows.taps + k]; });
            }
        }
    }
}

} // namespace

TapTable make_tap_table(const qconv_layer_config &config) {
    const std::int64_t taps = config.kernel_size;
    TapTable table;
    table.shift = Memory(static_cast<std::size_t>(taps) * sizeof(std::int32_t));
    table.phase_start = Memory(static_cast<std::size_t>(config.stride + 1) * sizeof(std::int32_t));
    auto *shift = table.shift.as<std::int32_t>();
    auto *start = table.phase_start.as<std::int32_t>();
    if (config.stride > 1) table.rank = Memory(static_cast<std::size_t>(taps) * sizeof(std::int64_t));
    auto *rank = table.rank.as<std::int64_t>();

    // Counting sort by phase, which keeps the taps of a phase ascending.
    std::fill_n(start, config.stride + 1, 0);
    for (std::int64_t k = 0; k < taps; ++k)
        ++start[Reach(config, k).phase + 1];
    for (std::int64_t e = 0; e < config.stride; ++e)
        start[e + 1] += start[e];
    for (std::int64_t k = 0; k < taps; ++k) {
        const Reach reach(config, k);
        const std::int32_t place = start[reach.phase]++;
        shift[place] = static_cast<std::int32_t>(reach.shift);
        if (rank != nullptr) rank[k] = place;
    }
    for (std::int64_t e = config.stride; e > 0; --e)
        start[e] = start[e - 1];
    start[0] = 0;
    const auto [least, greatest] = std::minmax_element(shift, shift + taps);
    table.shift_min = *least;
    table.shift_max = *greatest;
    return table;
}

void pack_grad_input(PackedGradInput &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
                     const TensorQuantizer &quantizer, std::span<const float> weight, PackScratch &scratch) {
    const WeightRows rows(config, weight);
    if (packed.taps.shift.data() == nullptr) packed.taps = make_tap_table(config);
    if (kernel.path == QCONV_PATH_F32B1) {
        pack_signs(packed, kernel, rows, quantizer, scratch);
    } else {
        pack_floats(packed, kernel, rows, quantizer, scratch);
    }
}

} // namespace qconv
