#include "pack_grad_input.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

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

// Entries of every table of one chunk, interleaved and in the order of the taps. joined: one row a table. tables: a
// number, best a constant.
template <typename Tables>
void store_entries_of(const TapTable &taps, const WeightRows &rows, Tables tables, const std::uint8_t *joined,
                      std::uint8_t *entries) {
    const std::int64_t elements = rows.elements();
    const auto store = [=](std::int64_t from, std::int64_t to) {
        for (std::int64_t u = 0; u < tables; ++u)
            entries[to * tables + u] = joined[from + u * elements];
    };
    if (taps.rank.data() == nullptr) {
        for (std::int64_t i = 0; i < elements; ++i)
            store(i, i);
        return;
    }
    for (std::int64_t first = 0; first < elements; first += rows.taps)
        for_each_tap(taps, rows.taps, [=](std::int64_t k, std::int64_t t) { store(first + k, first + t); });
}

void store_entries(const TapTable &taps, const WeightRows &rows, int tables, const std::uint8_t *joined,
                   std::uint8_t *entries) {
    const auto store = [&](auto count) { store_entries_of(taps, rows, count, joined, entries); };
    switch (tables) {
        case 2:
            return store(std::integral_constant<std::int64_t, 2>());
        case 4:
            return store(std::integral_constant<std::int64_t, 4>());
        default:
            return store(std::int64_t{tables});
    }
}

void pack_signs(PackedGradInput &packed, const qconv_kernel &kernel, const WeightRows &rows,
                const TensorQuantizer &quantizer, PackScratch &scratch) {
    const std::int64_t elements = rows.elements();
    const std::int64_t chunk_outputs = std::int64_t{kernel.tables} * kernel.table_channels;
    packed.blocks = ceil_div(rows.outputs, chunk_outputs);
    provide(packed.weight, rows.groups * packed.blocks * elements * kernel.tables, sizeof(std::uint8_t));
    std::uint8_t *joined = scratch.take<std::uint8_t>(elements * kernel.tables);
    auto *entries = packed.weight.as<std::uint8_t>();
    for (std::int64_t g = 0; g < rows.groups; ++g) {
        for (std::int64_t z = 0; z < packed.blocks; ++z, entries += elements * kernel.tables) {
            std::memset(joined, 0, static_cast<std::size_t>(elements * kernel.tables));
            for (std::int64_t u = 0; u < kernel.tables; ++u) {
                const std::int64_t first = (z * kernel.tables + u) * kernel.table_channels;
                const std::int64_t outputs = std::clamp<std::int64_t>(rows.outputs - first, 0, kernel.table_channels);
                for (std::int64_t o = first + outputs - 1; o >= first; --o) // the last one becomes the highest bit
                    quantizer.append_levels(rows.row(g, o), joined + u * elements);
            }
            store_entries(packed.taps, rows, kernel.tables, joined, entries);
        }
    }
}

void pack_floats(PackedGradInput &packed, const qconv_kernel &kernel, WeightRows rows, const TensorQuantizer &quantizer,
                 PackScratch &scratch) {
    const std::int64_t lanes = std::max(kernel.out_block, kernel.group_block);
    // Groups side by side lie as the channels of one group would.
    if (kernel.group_block > 1) rows.channels = std::exchange(rows.groups, 1);
    const std::int64_t taps = rows.taps;
    packed.blocks = ceil_div(rows.channels, lanes);
    provide(packed.weight, rows.groups * packed.blocks * rows.outputs * rows.taps * lanes, sizeof(float));
    auto *floats = packed.weight.as<float>();
    float *values = scratch.take<float>(rows.elements());
    for (std::int64_t g = 0; g < rows.groups; ++g) {
        for (std::int64_t o = 0; o < rows.outputs; ++o) {
            quantizer.values(rows.row(g, o), values);
            for (std::int64_t first = 0; first < rows.channels; first += lanes) {
                const std::int64_t block = g * packed.blocks + first / lanes;
                const std::int64_t used = std::min(lanes, rows.channels - first);
                float *result = floats + (block * rows.outputs + o) * rows.taps * lanes;
                const float *source = values + first * rows.taps;
                for_each_tap(packed.taps, rows.taps, [=](std::int64_t k, std::int64_t t) {
                    for (std::int64_t lane = 0; lane < used; ++lane)
                        result[t * lanes + lane] = source[lane * taps + k];
                });
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
