#include "pack.h"

#include <cstring>
#include <string>
#include <vector>

#include "arithmetic.h"
#include "config.h"
#include "errors.h"
#include "quantize.h"

namespace qconv {
namespace {

struct Shape {
    std::int64_t groups, channels, outputs, taps; // channels and outputs of one group

    std::int64_t index(std::int64_t group, std::int64_t output, std::int64_t channel, std::int64_t tap) const {
        return ((group * outputs + output) * channels + channel) * taps + tap;
    }
};

Memory zeroed(std::int64_t elements, std::size_t element_bytes) {
    if (elements > max_elements) {
        throw_invalid("elements of the packed weight", std::to_string(elements),
                      "it must be at most " + std::to_string(max_elements));
    }
    Memory memory(static_cast<std::size_t>(elements) * element_bytes);
    std::memset(memory.data(), 0, memory.bytes());
    return memory;
}

// Calls visit(output block, row, step, lane in the block, element in the word, index of the weight) for every weight.
template <typename Visit>
void for_each_word_element(const qconv_kernel &kernel, const PackedShape &packed, const Shape &shape, Visit visit) {
    const std::int64_t taps_per_word = word_taps(kernel);
    for (std::int64_t g = 0; g < shape.groups; ++g) {
        for (std::int64_t o = 0; o < shape.outputs; ++o) {
            const std::int64_t out_block_index = g * packed.out_blocks + o / kernel.out_block;
            for (std::int64_t c = 0; c < shape.channels; ++c) {
                const std::int64_t row = taps_per_word == 1 ? c / kernel.word_channels : 0;
                for (std::int64_t k = 0; k < shape.taps; ++k) {
                    const std::int64_t step = k / taps_per_word;
                    const std::int64_t element = k % taps_per_word * kernel.word_channels + c % kernel.word_channels;
                    visit(out_block_index, row, step, o % kernel.out_block, element, shape.index(g, o, c, k));
                }
            }
        }
    }
}

template <typename Word>
Memory pack_bit_planes(const qconv_kernel &kernel, const PackedShape &packed, const Shape &shape,
                       std::span<const std::uint8_t> levels) {
    const std::int64_t plane_words = packed.rows * packed.steps * kernel.out_block;
    Memory memory = zeroed(shape.groups * packed.out_blocks * kernel.weight_planes * plane_words, sizeof(Word));
    Word *words = memory.as<Word>();
    for_each_word_element(kernel, packed, shape,
                          [&](std::int64_t block, std::int64_t row, std::int64_t step, std::int64_t lane,
                              std::int64_t element, std::int64_t source) {
                              const unsigned level = levels[static_cast<std::size_t>(source)];
                              Word *word = words + block * kernel.weight_planes * plane_words +
                                           (row * packed.steps + step) * kernel.out_block + lane;
                              for (int plane = 0; plane < kernel.weight_planes; ++plane) {
                                  const Word bit = level >> plane & 1U;
                                  word[plane * plane_words] =
                                      static_cast<Word>(word[plane * plane_words] | bit << element);
                              }
                          });
    return memory;
}

template <typename Element>
Memory pack_elements(const qconv_kernel &kernel, const PackedShape &packed, const Shape &shape,
                     std::span<const std::int32_t> values) {
    const std::int64_t per_word = kernel.word_bits / kernel.element_bits;
    const std::int64_t words = shape.groups * packed.out_blocks * packed.rows * packed.steps * kernel.out_block;
    Memory memory = zeroed(words * per_word, sizeof(Element));
    Element *elements = memory.as<Element>();
    for_each_word_element(
        kernel, packed, shape,
        [&](std::int64_t block, std::int64_t row, std::int64_t step, std::int64_t lane, std::int64_t element,
            std::int64_t source) {
            const std::int64_t word = ((block * packed.rows + row) * packed.steps + step) * kernel.out_block + lane;
            elements[word * per_word + element] = static_cast<Element>(values[static_cast<std::size_t>(source)]);
        });
    return memory;
}

Memory pack_signs(const qconv_kernel &kernel, const PackedShape &packed, const Shape &shape,
                  std::span<const float> values) {
    Memory memory =
        zeroed(shape.groups * packed.chunks * shape.outputs * shape.taps * kernel.tables, sizeof(std::uint8_t));
    auto *entries = memory.as<std::uint8_t>();
    for (std::int64_t g = 0; g < shape.groups; ++g) {
        for (std::int64_t c = 0; c < shape.channels; ++c) {
            const std::int64_t table = c / kernel.table_channels;
            const std::int64_t chunk = g * packed.chunks + table / kernel.tables;
            const auto bit = static_cast<std::uint8_t>(1U << (c % kernel.table_channels));
            for (std::int64_t o = 0; o < shape.outputs; ++o) {
                for (std::int64_t k = 0; k < shape.taps; ++k) {
                    if (values[static_cast<std::size_t>(shape.index(g, o, c, k))] < 0) continue;
                    std::uint8_t &entry =
                        entries[((chunk * shape.outputs + o) * shape.taps + k) * kernel.tables + table % kernel.tables];
                    entry = static_cast<std::uint8_t>(entry | bit);
                }
            }
        }
    }
    return memory;
}

Memory pack_floats(const qconv_kernel &kernel, const PackedShape &packed, const Shape &shape,
                   std::span<const float> values) {
    Memory memory =
        zeroed(shape.groups * packed.out_blocks * shape.channels * shape.taps * kernel.out_block, sizeof(float));
    auto *floats = memory.as<float>();
    for (std::int64_t g = 0; g < shape.groups; ++g) {
        for (std::int64_t o = 0; o < shape.outputs; ++o) {
            const std::int64_t block = g * packed.out_blocks + o / kernel.out_block;
            for (std::int64_t c = 0; c < shape.channels; ++c) {
                for (std::int64_t k = 0; k < shape.taps; ++k) {
                    floats[((block * shape.channels + c) * shape.taps + k) * kernel.out_block + o % kernel.out_block] =
                        values[static_cast<std::size_t>(shape.index(g, o, c, k))];
                }
            }
        }
    }
    return memory;
}

// Prefix sums over the taps. `value` gives each weight as a number that sums without loss in double, or nearly.
template <typename Value>
Memory sum_edges(const Shape &shape, double unit, Value value) {
    Memory memory = zeroed(shape.groups * shape.outputs * (shape.taps + 1), sizeof(float));
    auto *edge = memory.as<float>();
    for (std::int64_t g = 0; g < shape.groups; ++g) {
        for (std::int64_t o = 0; o < shape.outputs; ++o) {
            double sum = 0;
            *edge++ = 0;
            for (std::int64_t k = 0; k < shape.taps; ++k) {
                for (std::int64_t c = 0; c < shape.channels; ++c) {
                    sum += static_cast<double>(value(static_cast<std::size_t>(shape.index(g, o, c, k))));
                }
                *edge++ = static_cast<float>(sum * unit);
            }
        }
    }
    return memory;
}

Memory pack_offsets(const IntegerArithmetic &arithmetic, const Shape &shape, std::span<const std::int32_t> values) {
    Memory memory = zeroed(shape.groups * shape.outputs, sizeof(std::int32_t));
    const std::int64_t elements = shape.channels * shape.taps;
    for (std::int64_t o = 0; o < shape.groups * shape.outputs; ++o) {
        std::int64_t sum = 0;
        for (std::int64_t i = o * elements; i < (o + 1) * elements; ++i)
            sum += values[static_cast<std::size_t>(i)];
        memory.as<std::int32_t>()[o] =
            static_cast<std::int32_t>(arithmetic.offset_per_weight * sum + arithmetic.offset_per_element * elements);
    }
    return memory;
}

void pack_integers(PackedLayer &layer, const qconv_kernel &kernel, const qconv_layer_config &config, const Shape &shape,
                   std::span<const float> weight) {
    const Representation form = weight_representation(config);
    const Representation input = input_representation(config);
    const IntegerArithmetic arithmetic = integer_arithmetic(kernel, config);
    const std::vector<std::uint8_t> levels = quantize_levels(weight_quantizer(config).first, weight);
    std::vector<std::int32_t> values(levels.begin(), levels.end());
    for (std::int32_t &value : values)
        value = arithmetic.element_factor * value + arithmetic.element_offset;

    if (kernel.path == QCONV_PATH_INT8) {
        layer.weight = kernel.element_bits == 16 ? pack_elements<std::int16_t>(kernel, layer.shape, shape, values)
                                                 : pack_elements<std::int8_t>(kernel, layer.shape, shape, values);
    } else {
        layer.weight = kernel.word_bits == 32 ? pack_bit_planes<std::uint32_t>(kernel, layer.shape, shape, levels)
                                              : pack_bit_planes<std::uint8_t>(kernel, layer.shape, shape, levels);
    }
    layer.offset = pack_offsets(arithmetic, shape, values);
    const bool is_signed = form.values == Representation::Values::Symmetric;
    const int factor = is_signed ? 2 : 1;
    const int less = is_signed ? form.top() : 0;
    layer.edge = sum_edges(shape, 1.0 / form.top(), [&](std::size_t i) { return factor * levels[i] - less; });
    layer.dot_factor = arithmetic.dot_factor;
    layer.window_factor = arithmetic.window_factor;
    layer.scale = static_cast<float>(arithmetic.scale);
    layer.pad_level = nearest_level(input, config.pad_value);
    layer.pad_delta = config.pad_value - level_value(input, layer.pad_level);
}

} // namespace

PackedLayer pack_layer(const qconv_kernel &kernel, const qconv_layer_config &config, std::span<const float> weight,
                       std::span<const float> bias) {
    const Shape shape{config.groups, channels_in_group(config), out_in_group(config), config.kernel_size};
    PackedLayer layer;
    layer.shape = packed_shape(kernel, shape.channels, shape.outputs, shape.taps);
    if (kernel.word_bits > 0) {
        pack_integers(layer, kernel, config, shape, weight);
        return layer;
    }
    const std::vector<float> values = quantize_values(weight_quantizer(config), weight);
    layer.weight = kernel.path == QCONV_PATH_F32B1 ? pack_signs(kernel, layer.shape, shape, values)
                                                   : pack_floats(kernel, layer.shape, shape, values);
    layer.edge = sum_edges(shape, 1.0, [&](std::size_t i) { return values[i]; });
    layer.offset = zeroed(config.out_channels, sizeof(float));
    if (!bias.empty()) std::memcpy(layer.offset.data(), bias.data(), bias.size_bytes());
    return layer;
}

} // namespace qconv
