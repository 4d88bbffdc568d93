// Forward by 8-bit (or, where the target has no such product, 16-bit) integer dot products. See layout.h.
#include "forward.h"
#include "quantizers.h"
#include "word_chunks.h"

namespace qconv {
namespace {

using namespace Halide;

class ForwardInt8 : public ForwardGenerator<ForwardInt8, Buffer<void, 6>, Buffer<int32_t, 2>> {
public:
    GeneratorParam<int> word_bits{"word_bits", 32};
    GeneratorParam<int> element_bits{"element_bits", 8};
    GeneratorParam<int> word_channels{"word_channels", 4};
    GeneratorParam<bool> window_sum{"window_sum", false};
    /// 128 where the product takes signed elements: levels are stored less by so much, and `offset` makes up for it.
    GeneratorParam<int> level_offset{"level_offset", 0};

    void generate() {
        describe_buffers({elements(), out_block});
        build_levels();
        build_words();

        Var row("row"), step("step");
        weights(element_of_word, o, step, row, g) = weight(element_of_word, o % out_block, step, row, o / out_block, g);
        if (warp == 1) build_patch(step, row);
        if (sums_short(word_bits, element_bits)) {
            build_short_sums();
        } else {
            build_sums();
        }
        define_output(
            [&](const Expr &position, const std::vector<Expr> &sums) {
                Expr sum = offset(o, g) + dot_factor * acc(sums);
                if (window_sum) sum += window_factor * window_at(position, sums);
                return scale * cast<float>(sum);
            },
            true);
    }

    void schedule() {
        if (using_autoscheduler()) {
            const int taps_of_word = word_taps();
            return estimate_call({elements(), out_block, blocks(kernel_taps, taps_of_word),
                                  taps_of_word == 1 ? blocks(group_channels(), word_channels) : 1, out_blocks(),
                                  groups});
        }
        schedules::ForwardStages stages;
        fill(stages, input, {quantizer == QCONV_INPUTDOREFA});
        stages.phased = !splits_phases() ? Func() : words;
        if (word_channels > 1 && !stages.phase_cases.empty()) {
            // At any other stride bytes are gathered one by one, and of several channels that is a large part of all.
            for (int known : {4, 5, 8})
                stages.phase_cases.push_back(stride() == known);
        }
        stages.out_block = out_block;
        stages.element = element_of_word;
        stages.acc = acc, stages.taps = taps, stages.rows = rows;
        stages.dot = dot, stages.has_dot = elements() > 1;
        stages.counts = short_sums, stages.count_taps = short_taps, stages.count_rows = short_rows;
        stages.word_sum = word_sum, stages.patch = patch;
        stages.weights = weights, stages.dot_elements = elements();
        if (window_sum) stages.window = window, stages.window_acc = window_acc;
        schedules::apply(stages, context());
    }

private:
    std::vector<Func> input;
    Func level{"level"}, words{"words"}, weights{"weights"}, acc{"acc"}, window{"window"}, window_acc{"window_acc"};
    Func short_sums, word_sum, patch;
    RVar dot, taps, rows, short_taps, short_rows;
    Var element_of_word{"e"};

    int elements() const { return word_bits.value() / element_bits.value(); }
    int word_taps() const { return elements() / word_channels; }
    Expr steps() const { return (kernel_size() + (word_taps() - 1)) / word_taps(); }
    Expr word_rows() const {
        return word_taps() == 1 ? Expr((channels() + (word_channels - 1)) / word_channels) : Expr(1);
    }

    /// The input level 0..levels at padded position p; padding is pad_level.
    void build_levels() {
        const Expr at = padded_position(), v = element(at, c);
        const Expr positive = select(quantizer == QCONV_STEHEAVISIDE, strict_float(v > 0.0f), !strict_float(v < 0.0f));
        const Expr q = select(quantizer == QCONV_INPUTDOREFA,
                              cast<uint8_t>(cast<int32_t>(quantizers::inputdorefa_level(v, levels))),
                              select(positive, cast<uint8_t>(1), cast<uint8_t>(0)));
        level(staged(std::vector<Var>{p, c, g, n})) = select(likely(inside(at)), q, cast<uint8_t>(pad_level));
        // In a tile only where several words have the same element.
        if (!tile_input || word_taps() > 1) input.push_back(level);
    }

    void build_words() {
        const Var &e = element_of_word;
        Var row("row"), f("f");
        const Type type = element_bits == 16 ? Int(16) : level_offset > 0 ? Int(8) : UInt(8);
        // Channels past the last and taps past the kernel's end meet a weight of 0, so any value will do for them.
        const auto value = [&](const Expr &at) {
            const Expr channel = min(row * word_channels + e % word_channels, channels() - 1);
            const Expr position = at + (e / word_channels) * dilation();
            const Expr stored = level(staged(std::vector<Expr>{position, channel, g, n}));
            return cast(type, level_offset > 0 ? stored - cast<uint8_t>(level_offset) : stored);
        };
        if (!splits_phases()) {
            words(staged(std::vector<Var>{e, p, row, g, n})) = value(p);
        } else {
            words(e, p, f, row, g, n) = value(p * stride() + f);
        }
        input.push_back(words);
    }

    void build_sums() {
        RDom r(0, elements(), 0, steps(), 0, word_rows(), "r");
        dot = r.x, taps = r.y, rows = r.z;
        const std::vector<Var> args = sums_args(w, {o, g, n});
        acc(args) = 0;
        const Expr value = patch.defined()
                               ? patch(r.x, w, r.y, r.z, g, n)
                               : input_value(r.x, reach_of_sum(w, r.y, word_taps() * dilation(), steps(), {r.z, g, n}));
        acc(args) += cast<int32_t>(value) * cast<int32_t>(weights(r.x, o, r.y, r.z, g));
        if (window_sum) build_window(r);
    }

    /// Words summed in 16 bits, chunk by chunk, then the chunks in 32. No sum saturates (layout.h); that of a word is
    /// said to because the instruction that multiplies and adds two pairs of bytes does.
    void build_short_sums() {
        const WordChunks chunks(short_sum_words, steps(), word_rows());
        RDom e(0, elements(), "e"), r(0, chunks.tap_count, 0, chunks.row_count, "r"), all = chunks.all();
        const auto [of_tap, of_row] = chunks.word(r, r.x, r.y);
        Var step("step"), row("row");
        word_sum = Func("word_sum");
        word_sum(w, o, step, row, g, n) = cast<int16_t>(0);
        word_sum(w, o, step, row, g, n) =
            saturating_add(word_sum(w, o, step, row, g, n),
                           cast<int16_t>(patch(e, w, step, row, g, n)) * cast<int16_t>(weights(e, o, step, row, g)));
        short_sums = Func("short_sums");
        short_sums(w, o, g, n, chunks.tap_chunk, chunks.row_chunk) = cast<int16_t>(0);
        short_sums(w, o, g, n, chunks.tap_chunk, chunks.row_chunk) += word_sum(w, o, of_tap, of_row, g, n);
        acc(w, o, g, n) = 0;
        acc(w, o, g, n) += cast<int32_t>(short_sums(w, o, g, n, all.x, all.y));
        dot = e, short_taps = r.x, short_rows = r.y, taps = all.x, rows = all.y;
    }

    /// Element `e` of the input word that reach() has at `at`.
    Expr input_value(const Expr &e, std::vector<Expr> at) {
        at.insert(at.begin(), e);
        return words(at);
    }

    /// patch(e, w, step, row, g, n): what output position w meets. A schedule may lay it out, or leave it to the sums.
    void build_patch(const Var &step, const Var &row) {
        patch = Func("patch");
        patch(element_of_word, w, step, row, g, n) =
            input_value(element_of_word, reach(w, step, word_taps() * dilation(), steps(), {row, g, n}));
    }

    /// The window's sum that goes with an output position, or, with tile_input, with the coordinates of its sums.
    Expr window_at(const Expr &position, const std::vector<Expr> &sums) {
        if (!tile_input) return window(position, g, n);
        return window(sums[1] * warp + sums[0], g, n, sums.back());
    }

    /// The sum of all input levels under the window of each output column: a dot product with weights that are all 1.
    void build_window(const RDom &r) {
        Func ones("ones");
        Var e("e"), step("step"), row("row");
        const Expr real = step * word_taps() + e / word_channels < kernel_size() &&
                          row * word_channels + e % word_channels < channels();
        ones(e, step, row) = cast(Int(element_bits), select(real, 1, 0));
        tap_tables.push_back(ones);
        const std::vector<Var> args = staged(std::vector<Var>{w, g, n});
        const Expr distance = word_taps() * dilation();
        const std::vector<Expr> rest{r.z, g, n};
        const std::vector<Expr> at = tile_input ? reach_in_tile(w, input_tile, r.y, distance, steps(), rest)
                                                : reach(w, r.y, distance, steps(), rest);
        window_acc(args) = 0;
        window_acc(args) += cast<int32_t>(input_value(r.x, at)) * cast<int32_t>(ones(r.x, r.y, r.z));
        window(args) = window_acc(args);
    }
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ForwardInt8, forward_int8)
