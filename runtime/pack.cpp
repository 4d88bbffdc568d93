#include "pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "arithmetic.h"
#include "config.h"

namespace qconv {
namespace {

// What packs row by row: where the words of one output channel start.
struct Destination {
    std::int64_t block, lane;

    Destination(const qconv_kernel &kernel, const PackedShape &shape, std::int64_t group, std::int64_t output)
        : block(group * shape.out_blocks + output / kernel.out_block), lane(output % kernel.out_block) {}
};

// Where word `index` of an output channel lies from its first one.
struct WordPlace {
    std::int64_t vector_words, out_block;

    explicit WordPlace(const qconv_kernel &kernel)
        : vector_words(qconv::vector_words(kernel)), out_block(kernel.out_block) {}
    std::int64_t operator()(std::int64_t index) const {
        if (vector_words == 1) return index * out_block; // divisions would be most of the packing
        return index / vector_words * out_block * vector_words + index % vector_words;
    }
};

// Words that hold channels of one tap. `joined` has every eight channels of the row as a byte.
template <typename Word>
void store_channel_words(const std::uint8_t *joined, const PackedShape &shape, WordPlace place, Word *words) {
    constexpr auto bytes = static_cast<std::int64_t>(sizeof(Word));
    const std::int64_t taps = shape.steps;
    for (std::int64_t row = 0; row < shape.rows; ++row) {
        const std::uint8_t *first = joined + row * bytes * 8 * taps;
        for (std::int64_t k = 0; k < taps; ++k) {
            unsigned word = 0;
            for (std::int64_t byte = 0; byte < bytes; ++byte)
                word |= static_cast<unsigned>(first[byte * 8 * taps + k]) << (8 * byte);
            words[place(row * taps + k)] = static_cast<Word>(word);
        }
    }
}

// Words that join taps.
template <typename Word>
void store_tap_words(const std::uint8_t *levels, const qconv_kernel &kernel, const WeightRows &rows, WordPlace place,
                     Word *words) {
    const std::int64_t joined = word_taps(kernel);
    constexpr std::int64_t most = 64; // taps at once: whole words of them
    for (std::int64_t first = 0; first < rows.taps; first += most) {
        const std::int64_t taps = std::min(most, rows.taps - first);
        std::array<std::uint32_t, most> channels{}; // of each tap
        for (std::int64_t c = 0; c < rows.channels; ++c) {
            const std::uint8_t *level = levels + c * rows.taps + first;
            for (std::int64_t t = 0; t < taps; ++t)
                channels[static_cast<std::size_t>(t)] |= static_cast<std::uint32_t>(level[t]) << c;
        }
        for (std::int64_t t = 0; t < taps; t += joined) {
            std::uint32_t word = 0;
            for (std::int64_t i = 0; i < std::min(joined, taps - t); ++i)
                word |= channels[static_cast<std::size_t>(t + i)] << (i * kernel.word_channels);
            words[place((first + t) / joined)] = static_cast<Word>(word);
        }
    }
}

// Packs the levels of one output channel at a time. The rows come with room for whole words of channels.
template <typename Word>
class BitPlanePacker {
public:
    BitPlanePacker(Memory &memory, const qconv_kernel &kernel, const PackedShape &shape, const WeightRows &rows)
        : kernel_(kernel),
          shape_(shape),
          rows_(rows),
          plane_words_(shape.vectors * vector_words(kernel) * kernel.out_block) {
        provide(memory, rows.groups * shape.out_blocks * kernel.weight_planes * plane_words_, sizeof(Word));
        words_ = memory.as<Word>();
    }

    // `plane` and `joined` have room for a row, and joining_width bytes past its end; so has `levels`.
    void pack(const Destination &at, const std::uint8_t *levels, std::int64_t row_size, std::uint8_t *plane,
              std::uint8_t *joined) const {
        for (int p = 0; p < kernel_.weight_planes; ++p) {
            const std::uint8_t *bits = levels;
            if (kernel_.weight_planes > 1) {
                std::transform(levels, levels + row_size, plane,
                               [p](std::uint8_t level) { return static_cast<std::uint8_t>(level >> p & 1); });
                bits = plane;
            }
            Word *words =
                words_ + (at.block * kernel_.weight_planes + p) * plane_words_ + at.lane * vector_words(kernel_);
            if (word_taps(kernel_) > 1) {
                store_tap_words(bits, kernel_, rows_, WordPlace(kernel_), words);
            } else {
                if (rows_.taps == 1) {
                    join_neighbours(bits, row_size, joined);
                } else {
                    join_bits(bits, rows_.taps, 8, ceil_div(row_size - 7 * rows_.taps, joining_width) * joining_width,
                              joined);
                }
                store_channel_words(joined, shape_, WordPlace(kernel_), words);
            }
        }
    }

private:
    const qconv_kernel &kernel_;
    const PackedShape &shape_;
    const WeightRows &rows_;
    std::int64_t plane_words_;
    Word *words_;
};

template <typename Element>
class ElementPacker {
public:
    ElementPacker(Memory &memory, const qconv_kernel &kernel, const PackedShape &shape, const WeightRows &rows,
                  const IntegerArithmetic &arithmetic)
        : kernel_(kernel),
          shape_(shape),
          rows_(rows),
          arithmetic_(arithmetic),
          per_word_(kernel.word_bits / kernel.element_bits),
          block_words_(shape.rows * shape.steps * kernel.out_block) {
        provide(memory, rows.groups * shape.out_blocks * block_words_ * per_word_, sizeof(Element));
        elements_ = memory.as<Element>();
    }

    void pack(const Destination &at, const std::uint8_t *levels) const {
        Element *words = elements_ + (at.block * block_words_ + at.lane) * per_word_;
        // In variables, or each store would have them all loaded again: bytes may be anything.
        const std::int64_t taps = rows_.taps, joined = word_taps(kernel_), channels = kernel_.word_channels;
        const std::int64_t word = kernel_.out_block * per_word_, row = shape_.steps * word;
        const auto element = [factor = arithmetic_.element_factor,
                              offset = arithmetic_.element_offset](std::uint8_t level) {
            return static_cast<Element>(factor * level + offset);
        };
        if (joined > 1) {
            for (std::int64_t c = 0; c < rows_.channels; ++c, levels += taps) {
                for (std::int64_t k = 0; k < taps; ++k)
                    words[k / joined * word + k % joined * channels + c] = element(levels[k]);
            }
            return;
        }
        // Of few taps, a division for each channel would be most of the packing.
        for (std::int64_t first = 0; first < rows_.channels; first += channels, words += row) {
            for (std::int64_t c = 0; c < std::min(channels, rows_.channels - first); ++c, levels += taps) {
                for (std::int64_t k = 0; k < taps; ++k)
                    words[k * word + c] = element(levels[k]);
            }
        }
    }

private:
    const qconv_kernel &kernel_;
    const PackedShape &shape_;
    const WeightRows &rows_;
    const IntegerArithmetic &arithmetic_;
    std::int64_t per_word_, block_words_;
    Element *elements_;
};

// The sums that go with one output channel on the integer paths.
class SumPacker {
public:
    SumPacker(PackedForward &packed, const WeightRows &rows, const IntegerArithmetic &arithmetic, Representation form)
        : rows_(rows), arithmetic_(arithmetic), form_(form), edges_(packed.pad_delta != 0) {
        provide(packed.offset, rows.groups * rows.outputs, sizeof(std::int32_t));
        provide(packed.edge, rows.groups * rows.outputs * (rows.taps + 1), sizeof(float));
        offset_ = packed.offset.as<std::int32_t>();
        edge_ = packed.edge.as<float>();
    }

    void pack(std::int64_t output, const std::uint8_t *levels) const {
        std::int64_t sum = 0;
        if (arithmetic_.offset_per_weight != 0) {
            const std::int64_t level_sum = std::accumulate(levels, levels + rows_.elements(), std::int64_t{0});
            sum = arithmetic_.element_factor * level_sum + arithmetic_.element_offset * rows_.elements();
        }
        offset_[output] = static_cast<std::int32_t>(arithmetic_.offset_per_weight * sum +
                                                    arithmetic_.offset_per_element * rows_.elements());
        if (edges_) sum_edges(edge_ + output * (rows_.taps + 1), levels);
    }

private:
    // Prefix sums over the taps, exact until they are scaled.
    void sum_edges(float *edge, const std::uint8_t *levels) const {
        const bool is_signed = form_.values == Representation::Values::Symmetric;
        const std::int64_t factor = is_signed ? 2 : 1;
        const std::int64_t less = is_signed ? rows_.channels * form_.top() : 0;
        const double unit = 1.0 / form_.top();
        std::int64_t sum = 0;
        *edge++ = 0;
        // So many sums at once: of all taps of several channels, or of some taps of one.
        constexpr std::int64_t lanes = 256;
        const std::int64_t step = std::max<std::int64_t>(lanes / rows_.taps, 1);
        for (std::int64_t first = 0; first < rows_.taps; first += lanes) {
            const std::int64_t taps = std::min(lanes, rows_.taps - first);
            std::array<std::uint32_t, lanes> sums{};
            for (std::int64_t c = 0; c < rows_.channels; c += step) {
                const std::uint8_t *part = levels + c * rows_.taps + first;
                const std::int64_t count = std::min(step, rows_.channels - c) * taps;
                for (std::int64_t i = 0; i < count; ++i)
                    sums[static_cast<std::size_t>(i)] += part[i];
            }
            for (std::int64_t k = 0; k < taps; ++k) {
                std::int64_t level_sum = 0;
                for (std::int64_t i = k; i < step * taps; i += taps)
                    level_sum += sums[static_cast<std::size_t>(i)];
                sum += factor * level_sum - less;
                *edge++ = static_cast<float>(static_cast<double>(sum) * unit);
            }
        }
    }

    const WeightRows &rows_;
    const IntegerArithmetic &arithmetic_;
    Representation form_;
    bool edges_;
    std::int32_t *offset_;
    float *edge_;
};

// Calls visit(group, output, levels of its row) for every output channel. The row is `row_size` long, zeros at its end.
template <typename Visit>
void for_each_level_row(const WeightRows &rows, const TensorQuantizer &quantizer, std::int64_t row_size,
                        std::uint8_t *levels, Visit visit) {
    std::memset(levels + rows.elements(), 0, static_cast<std::size_t>(row_size - rows.elements()));
    for (std::int64_t g = 0; g < rows.groups; ++g) {
        for (std::int64_t o = 0; o < rows.outputs; ++o) {
            quantizer.levels(rows.row(g, o), levels);
            visit(g, o, levels);
        }
    }
}

void pack_integers(PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
                   const WeightRows &rows, const TensorQuantizer &quantizer, PackScratch &scratch) {
    const Representation form = weight_representation(config);
    const Representation input = input_representation(config);
    const IntegerArithmetic arithmetic = integer_arithmetic(kernel, config);
    packed.dot_factor = arithmetic.dot_factor;
    packed.window_factor = arithmetic.window_factor;
    packed.scale = static_cast<float>(arithmetic.scale);
    packed.pad_level = nearest_level(input, config.pad_value);
    packed.pad_delta = config.pad_value - level_value(input, packed.pad_level);

    const bool whole_words = kernel.path == QCONV_PATH_B1B1 && word_taps(kernel) == 1;
    const std::int64_t row_size = whole_words ? packed.shape.rows * kernel.word_bits * rows.taps : rows.elements();
    const std::int64_t room = row_size + joining_width;
    std::uint8_t *levels = scratch.take<std::uint8_t>(3 * room);
    const SumPacker sums(packed, rows, arithmetic, form);
    const auto pack_rows = [&](auto pack_row) {
        for_each_level_row(rows, quantizer, row_size, levels,
                           [&](std::int64_t g, std::int64_t o, const std::uint8_t *row) {
                               pack_row(Destination(kernel, packed.shape, g, o), row);
                               sums.pack(g * rows.outputs + o, row);
                           });
    };
    const auto pack_bits = [&]<typename Word>(Word) {
        const BitPlanePacker<Word> packer(packed.weight, kernel, packed.shape, rows);
        pack_rows([&](const Destination &at, const std::uint8_t *row) {
            packer.pack(at, row, row_size, levels + room, levels + 2 * room);
        });
    };
    const auto pack_elements = [&]<typename Element>(Element) {
        const ElementPacker<Element> packer(packed.weight, kernel, packed.shape, rows, arithmetic);
        pack_rows([&](const Destination &at, const std::uint8_t *row) { packer.pack(at, row); });
    };
    if (kernel.path == QCONV_PATH_INT8) {
        kernel.element_bits == 16 ? pack_elements(std::int16_t{}) : pack_elements(std::int8_t{});
    } else {
        switch (kernel.word_bits) {
            case 8:
                return pack_bits(std::uint8_t{});
            case 16:
                return pack_bits(std::uint16_t{});
            default:
                return pack_bits(std::uint32_t{});
        }
    }
}

void pack_signs(PackedForward &packed, const qconv_kernel &kernel, const WeightRows &rows,
                const TensorQuantizer &quantizer, PackScratch &scratch) {
    const std::int64_t chunks = packed.shape.chunks;
    const std::int64_t table_size = kernel.table_channels * rows.taps; // elements of a row that index one table
    const std::int64_t row_size = chunks * kernel.tables * table_size;
    const std::int64_t chunk_entries = rows.outputs * rows.taps * kernel.tables;
    provide(packed.weight, rows.groups * chunks * chunk_entries, sizeof(std::uint8_t));
    auto *entries = packed.weight.as<std::uint8_t>();
    std::uint8_t *levels = scratch.take<std::uint8_t>(2 * row_size);
    std::uint8_t *joined = levels + row_size;
    for_each_level_row(rows, quantizer, row_size, levels, [&](std::int64_t g, std::int64_t o, const std::uint8_t *row) {
        join_bits(row, rows.taps, kernel.table_channels, row_size - (kernel.table_channels - 1) * rows.taps, joined);
        const std::uint8_t *source = joined;
        for (std::int64_t z = 0; z < chunks; ++z) {
            std::uint8_t *chunk = entries + (g * chunks + z) * chunk_entries + o * rows.taps * kernel.tables;
            for (std::int64_t u = 0; u < kernel.tables; ++u, source += table_size) {
                for (std::int64_t k = 0; k < rows.taps; ++k)
                    chunk[k * kernel.tables + u] = source[k];
            }
        }
    });
}

void pack_floats(PackedForward &packed, const qconv_kernel &kernel, WeightRows rows, const TensorQuantizer &quantizer,
                 PackScratch &scratch) {
    constexpr std::int64_t longest = 256; // values of each output channel quantized together: the block stays in L1
    const std::int64_t out_block = std::max(kernel.out_block, kernel.group_block);
    // Groups side by side lie as the output channels of one group would.
    if (kernel.group_block > 1) rows.outputs = std::exchange(rows.groups, 1);
    const std::int64_t blocks = ceil_div(rows.outputs, out_block), block_size = rows.elements() * out_block;
    provide(packed.weight, rows.groups * blocks * block_size, sizeof(float));
    auto *floats = packed.weight.as<float>();
    float *values = scratch.take<float>(longest);
    for (std::int64_t g = 0; g < rows.groups; ++g) {
        for (std::int64_t block = 0; block < blocks; ++block, floats += block_size) {
            const std::int64_t first = block * out_block;
            const std::int64_t lanes = std::min(out_block, rows.outputs - first);
            for (std::int64_t from = 0; from < rows.elements(); from += longest) {
                const std::int64_t count = std::min(longest, rows.elements() - from);
                for (std::int64_t lane = 0; lane < lanes; ++lane) {
                    quantizer.values(rows.row(g, first + lane)
                                         .subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(count)),
                                     values);
                    float *result = floats + from * out_block + lane;
                    for (std::int64_t i = 0; i < count; ++i)
                        result[i * out_block] = values[i];
                }
            }
        }
    }
}

} // namespace

void pack_forward(PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
                  const TensorQuantizer &quantizer, std::span<const float> weight, std::span<const float> bias,
                  PackScratch &scratch) {
    const WeightRows rows(config, weight);
    packed.shape = packed_shape(kernel, rows.channels, rows.outputs, rows.taps);
    if (kernel.word_bits > 0) return pack_integers(packed, kernel, config, rows, quantizer, scratch);
    if (kernel.path == QCONV_PATH_F32B1) {
        pack_signs(packed, kernel, rows, quantizer, scratch);
    } else {
        pack_floats(packed, kernel, rows, quantizer, scratch);
    }
    provide(packed.edge, config.out_channels * (rows.taps + 1), sizeof(float));
    provide(packed.offset, config.out_channels, sizeof(float));
    std::fill_n(packed.offset.as<float>(), config.out_channels, 0.0F);
    std::copy(bias.begin(), bias.end(), packed.offset.as<float>());
}

} // namespace qconv
