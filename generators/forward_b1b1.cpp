// Forward by xor and popcount on bit-planes, from and to float.
#include "forward.h"
#include "popcount.h"
#include "quantizers.h"

#include <algorithm>

namespace qconv {
namespace {

using namespace Halide;
using Halide::Internal::make_const;
using Halide::Internal::make_zero;

class ForwardB1B1
    : public PopcountGenerator<ForwardGenerator<ForwardB1B1, Halide::Buffer<void, 6>, Halide::Buffer<int32_t, 2>>> {
public:
    /// Channels joined in one pass over x.
    GeneratorParam<int> pass_channels{"pass_channels", 8};
    /// Put each channel's bit in its place of the word, for targets with an instruction that inserts bits.
    GeneratorParam<bool> insert_bits{"insert_bits", false};

    void generate() {
        if (vector_words > 1) {
            describe_buffers({vector_words, out_block});
        } else {
            describe_buffers({out_block});
        }
        build_words();
        build_sums();
        define_output(
            [&](const Expr &, const std::vector<Expr> &sums) {
                return scale * cast<float>(sum_results ? acc(sums) : offset(o, g) - 2 * disagreeing(sums));
            },
            true);
    }

    void schedule() {
        if (using_autoscheduler()) {
            const int taps_of_word = word_taps();
            return estimate_call({out_block, blocks(kernel_taps, taps_of_word),
                                  taps_of_word == 1 ? blocks(group_channels(), word_channels) : 1, weight_planes,
                                  out_blocks(), groups});
        }
        schedules::ForwardStages stages;
        std::vector<Expr> cases = strict.defined() ? std::vector<Expr>{strict} : std::vector<Expr>{};
        // A width of 1: the channels are neighbours.
        const Expr dense = x.dim(1).stride() == 1;
        if (across_outputs())
            cases = strict.defined() ? std::vector<Expr>{dense && !strict, !strict} : std::vector<Expr>{dense};
        fill(stages, input, cases);
        fill_sums(stages);
        schedules::apply(stages, context());
    }

private:
    Expr strict;    // the input quantizer sends a value equal to its threshold to -1
    Expr threshold; // of an input quantizer to one bit

    /// Whether bit `plane` of the quantized x at padded position p (inside x), channel c, is set.
    Func build_bits() {
        Func bits("bits");
        if (input_planes == 1) {
            // inputdorefa of one bit is v > 0.5: 0.5 rounds to even, to 0.
            threshold = select(quantizer == QCONV_INPUTDOREFA, 0.5f, 0.0f);
            strict = quantizer == QCONV_STEHEAVISIDE || quantizer == QCONV_INPUTDOREFA;
            // Not v >= threshold: NaN gives +1, as bitorch has it.
            const Expr v = element(p, c);
            bits(p, c, plane, g, n) = select(strict, strict_float(v > threshold), !strict_float(v < threshold));
        } else {
            Func level("level");
            level(p, c, g, n) = cast<uint8_t>(cast<int32_t>(quantizers::inputdorefa_level(element(p, c), levels)));
            input.push_back(level);
            bits(p, c, plane, g, n) = (level(p, c, g, n) & (cast<uint8_t>(1) << cast<uint8_t>(plane))) != 0;
        }
        return bits;
    }

    /// Words of word_channels channels at every padded position.
    void build_words() {
        const Func bits = build_bits();
        if (across_outputs()) return build_words_of_few(bits);
        const int s = word_channels;
        const Type narrow = holder(s);
        // Few channels a pass where more rows of x at once would compete for the same cache sets.
        const int together = std::min(s, pass_channels.value()), passes = s / together;
        const Expr at = padded_position();
        const auto pass_bits = [&](const Expr &pass) {
            std::vector<Expr> terms;
            for (int i = 0; i < together; i++) {
                const Expr channel = min(row * s + pass * together + i, channels() - 1);
                const Expr bit = make_const(narrow, uint64_t{1} << i);
                terms.push_back(select(bits(at, channel, plane, g, n), bit, make_zero(narrow)));
            }
            while (terms.size() > 1) {
                for (size_t i = 0; i < terms.size() / 2; i++)
                    terms[i] = terms[2 * i] | terms[2 * i + 1];
                terms.resize(terms.size() / 2);
            }
            // Padding is a level like any other: all channels of a padded position hold bit `plane` of it.
            const Expr padding = select(((pad_level >> plane) & 1) != 0, narrow.max(), make_zero(narrow));
            const Expr real = mask(channels() - row * s - pass * together, narrow) &
                              make_const(narrow, (uint64_t{1} << together) - 1);
            const Expr word = select(likely(inside(at)), terms[0], padding);
            return (sum_results ? ~word : word) & real;
        };
        Func joined("words_" + std::to_string(s));
        if (passes == 1) {
            joined(words_args()) = pass_bits(0);
        } else {
            RDom pass(0, passes, "pass");
            joined(words_args()) = make_zero(narrow);
            const Expr bits_of_pass = insert_bits && input_planes == 1
                                          ? inserted_bits(pass * together, together)
                                          : pass_bits(pass) << cast(narrow, pass * together);
            joined(words_args()) = joined(words_args()) | bits_of_pass;
        }
        join_taps(joined);
    }

    /// Words of 8 channels at few positions: the bits as bytes, channel by channel, then eight at a time.
    void build_words_of_few(const Func &bits) {
        constexpr int s = 8;
        Func bytes("bytes"), words("words_8");
        const Expr real =
            select(inside(p), bits(p, min(likely(c), channels() - 1), plane, g, n), ((pad_level >> plane) & 1) != 0);
        bytes(p, c, plane, g, n) = select(likely(c < channels()), cast<uint8_t>(real), cast<uint8_t>(0));
        std::vector<Expr> eight;
        for (int i = 0; i < s; i++)
            eight.push_back(bytes(p, row * s + i, plane, g, n));
        // Byte i is multiplied by 2^i on its way to the highest byte; no sum on the way reaches 256.
        const Expr gathered = concat_bits(eight) * make_const(UInt(64), 0x0102040810204080U);
        words(words_args()) = cast<uint8_t>(gathered >> cast<uint64_t>(56));
        input.push_back(bytes), input.push_back(words);
    }

    /// The bits of `count` channels of a word, from its channel `first` on, in their places.
    Expr inserted_bits(const Expr &first, int count) {
        constexpr int chain = 4; // insertions each waiting for the one before
        const Type type = holder(word_channels);
        const Expr none = make_zero(type), shift = cast(type, first);
        const Expr real = mask(channels() - row * word_channels - first, type);
        const auto places = [&](int begin, int end) { return make_const(type, (1U << end) - (1U << begin)); };
        // What build_bits() has, or where not strict its contrary: all are inverted below, at once.
        const auto everywhere = [&](int i) {
            const Expr v = element(p, min(row * word_channels + first + i, channels() - 1));
            const Expr set = select(strict, strict_float(v > threshold), strict_float(v < threshold));
            return select(set, type.max(), none);
        };
        Expr inserted = none;
        for (int begin = 0; begin < count; begin += chain) {
            const int end = std::min(begin + chain, count);
            Expr part = everywhere(begin);
            for (int i = begin + 1; i < end; i++) // in this form LLVM takes an instruction that inserts bits
                part = ((everywhere(i) ^ part) & (places(i, i + 1) << shift)) ^ part;
            inserted = inserted | (part & ((real & places(begin, end)) << shift));
        }
        const Expr all = (real & places(0, count)) << shift;
        const Expr high = sum_results ? none : all, low = sum_results ? all : none; // of values that are 1, or 0
        const Expr padding = select((pad_level & 1) != 0, high, low);
        return select(likely(inside(p)), inserted ^ select(strict, low, high), padding);
    }
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ForwardB1B1, forward_b1b1)
