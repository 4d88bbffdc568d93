#include "unpack.h"

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "config.h"
#include "qconv/layout.h"
#include "quantize.h"

namespace qconv {
namespace {

// Where an element of a weight comes from: group, output channel and channel in it, tap.
struct Place {
    std::int64_t g, o, c, k;
};

// weight = value(place) for every place, in the weight's order.
template <typename Value>
void for_each_place(const qconv_layer_config &config, std::span<float> weight, Value value) {
    const std::int64_t outputs = out_in_group(config), channels = channels_in_group(config);
    auto result = weight.begin();
    for (std::int64_t g = 0; g < config.groups; ++g) {
        for (std::int64_t o = 0; o < outputs; ++o) {
            for (std::int64_t c = 0; c < channels; ++c) {
                for (std::int64_t k = 0; k < config.kernel_size; ++k)
                    *result++ = value(Place{g, o, c, k});
            }
        }
    }
}

// Where an element lies among the words of its output channel.
struct InWord {
    std::int64_t word, element;

    InWord(const qconv_kernel &kernel, const PackedShape &shape, const Place &at) {
        const std::int64_t taps = word_taps(kernel), channels = kernel.word_channels;
        const std::int64_t row = taps == 1 ? at.c / channels : 0;
        word = row * shape.steps + at.k / taps;
        element = at.k % taps * channels + (taps == 1 ? at.c % channels : at.c);
    }
};

// Blocks of output channels in all groups before this one's.
std::int64_t block_of(const qconv_kernel &kernel, const PackedShape &shape, const Place &at) {
    return at.g * shape.out_blocks + at.o / kernel.out_block;
}

template <typename Word>
void unpack_bits(const PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
                 std::span<float> weight) {
    const PackedShape &shape = packed.shape;
    const Representation form = weight_representation(config);
    const auto *words = packed.weight.as<Word>();
    const std::int64_t together = vector_words(kernel), step = together * kernel.out_block;
    for_each_place(config, weight, [&](const Place &at) {
        const InWord in_word(kernel, shape, at);
        const std::int64_t word =
            in_word.word / together * step + at.o % kernel.out_block * together + in_word.word % together;
        int level = 0;
        for (std::int64_t plane = 0; plane < kernel.weight_planes; ++plane) {
            const std::int64_t planes = block_of(kernel, shape, at) * kernel.weight_planes + plane;
            level |= static_cast<int>(words[planes * shape.vectors * step + word] >> in_word.element & 1U) << plane;
        }
        return level_value(form, level);
    });
}

template <typename Element>
void unpack_elements(const PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
                     std::span<float> weight) {
    const PackedShape &shape = packed.shape;
    const Representation form = weight_representation(config);
    const IntegerArithmetic arithmetic = integer_arithmetic(kernel, config);
    const auto *elements = packed.weight.as<Element>();
    const std::int64_t per_word = kernel.word_bits / kernel.element_bits, words = shape.rows * shape.steps;
    for_each_place(config, weight, [&](const Place &at) {
        const InWord in_word(kernel, shape, at);
        const std::int64_t word =
            (block_of(kernel, shape, at) * words + in_word.word) * kernel.out_block + at.o % kernel.out_block;
        const int element = elements[word * per_word + in_word.element];
        return level_value(form, (element - arithmetic.element_offset) / arithmetic.element_factor);
    });
}

// Of entries [tables, inner, chunks, groups] whose bits are those of `index`, a channel of `inner_count` places each.
float sign_at(const Memory &weight, const qconv_kernel &kernel, std::int64_t index, std::int64_t inner,
              std::int64_t inner_count, std::int64_t chunks_before) {
    const std::int64_t table = index / kernel.table_channels, chunk = chunks_before + table / kernel.tables;
    const std::uint8_t entry =
        weight.as<std::uint8_t>()[(chunk * inner_count + inner) * kernel.tables + table % kernel.tables];
    return (entry >> index % kernel.table_channels & 1) != 0 ? 1.0F : -1.0F;
}

// Of floats [lanes, inner, blocks]: `index` counts lanes.
float float_at(const Memory &weight, std::int64_t lanes, std::int64_t index, std::int64_t inner,
               std::int64_t inner_count, std::int64_t blocks_before) {
    return weight.as<float>()[((blocks_before + index / lanes) * inner_count + inner) * lanes + index % lanes];
}

} // namespace

void unpack(const PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
            std::span<float> weight) {
    const std::int64_t taps = config.kernel_size, outputs = out_in_group(config), channels = channels_in_group(config);
    const PackedShape &shape = packed.shape;
    if (kernel.path == QCONV_PATH_INT8) {
        kernel.element_bits == 16 ? unpack_elements<std::int16_t>(packed, kernel, config, weight)
                                  : unpack_elements<std::int8_t>(packed, kernel, config, weight);
    } else if (kernel.path == QCONV_PATH_B1B1) {
        kernel.word_bits == 8    ? unpack_bits<std::uint8_t>(packed, kernel, config, weight)
        : kernel.word_bits == 16 ? unpack_bits<std::uint16_t>(packed, kernel, config, weight)
                                 : unpack_bits<std::uint32_t>(packed, kernel, config, weight);
    } else if (kernel.path == QCONV_PATH_F32B1) {
        for_each_place(config, weight, [&](const Place &at) {
            return sign_at(packed.weight, kernel, at.c, at.o * taps + at.k, outputs * taps, at.g * shape.chunks);
        });
    } else if (kernel.group_block > 1) {
        for_each_place(config, weight, [&](const Place &at) {
            return float_at(packed.weight, kernel.group_block, at.g, at.k, taps, 0);
        });
    } else {
        for_each_place(config, weight, [&](const Place &at) {
            return float_at(packed.weight, kernel.out_block, at.o, at.c * taps + at.k, channels * taps,
                            at.g * shape.out_blocks);
        });
    }
}

void unpack(const PackedGradInput &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
            std::span<float> weight) {
    const std::int64_t taps = config.kernel_size, outputs = out_in_group(config), channels = channels_in_group(config);
    const auto *rank = packed.taps.rank.as<std::int64_t>();
    const auto place = [rank](std::int64_t tap) { return rank == nullptr ? tap : rank[tap]; };
    if (kernel.path == QCONV_PATH_F32B1) {
        for_each_place(config, weight, [&](const Place &at) {
            return sign_at(packed.weight, kernel, at.o, at.c * taps + place(at.k), channels * taps,
                           at.g * packed.blocks);
        });
    } else if (kernel.group_block > 1) {
        for_each_place(config, weight, [&](const Place &at) {
            return float_at(packed.weight, kernel.group_block, at.g, place(at.k), taps, 0);
        });
    } else {
        for_each_place(config, weight, [&](const Place &at) {
            return float_at(packed.weight, kernel.out_block, at.c, at.o * taps + place(at.k), outputs * taps,
                            at.g * packed.blocks);
        });
    }
}

std::span<const float> unpacked_bias(const PackedForward &packed, const qconv_layer_config &config) {
    if (config.kind != QCONV_LAYER_CONV1D) return {};
    return {packed.offset.as<float>(), static_cast<std::size_t>(config.out_channels)};
}

std::span<const float> unpacked_bias(const PackedGradInput & /*packed*/, const qconv_layer_config & /*config*/) {
    return {};
}

} // namespace qconv
