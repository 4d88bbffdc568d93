// What the generators by xor and popcount share: words joined along the taps, and the sums. The formulas and the
// packing are in layout.h.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "Halide.h"
#include "schedules/schedule.h"
#include "word_chunks.h"

namespace qconv {

/// Base: a generator with the inputs of one kind of kernel, and channels(), kernel_size(), dilation(), stride().
template <class Base>
class PopcountGenerator : public Base {
protected:
    using Expr = Halide::Expr;
    using Func = Halide::Func;
    using RDom = Halide::RDom;
    using RVar = Halide::RVar;
    using Tuple = Halide::Tuple;
    using Type = Halide::Type;
    using Var = Halide::Var;
    using Base::by_phase, Base::reach_of_sum, Base::sums_args;
    using Base::channels, Base::kernel_size, Base::dilation, Base::stride;
    using Base::g, Base::n, Base::o, Base::p, Base::w, Base::out_block, Base::weight, Base::tap_tables;

public:
    Halide::GeneratorParam<int> word_bits{"word_bits", 32};
    Halide::GeneratorParam<int> word_channels{"word_channels", 32};
    Halide::GeneratorParam<int> input_planes{"input_planes", 1};
    Halide::GeneratorParam<int> weight_planes{"weight_planes", 1};
    /// Most words summed in 8-bit counters before they are widened: 255 / word_bits for words of 8 bits, 0: 32-bit
    /// sums. With vector_words, most vectors, of which four counters of one byte each still fit a byte: 7.
    Halide::GeneratorParam<int> count_limit{"count_limit", 0};
    /// Above 1: vectors hold so many words of one position's window, in place of the words of neighbouring positions.
    Halide::GeneratorParam<int> vector_words{"vector_words", 1};
    /// With count_limit and vector_words, for targets whose dot product takes the factor 2 for nothing: acc is the
    /// result in units of the scale, agreements counted twice: the words of x are inverted.
    Halide::GeneratorParam<bool> sum_results{"sum_results", false};
    /// Count through a running carry-save adder: two words and the sum so far make one word to count. One plane only.
    Halide::GeneratorParam<bool> carry_save{"carry_save", false};

protected:
    std::vector<Func> input; // in order of computation; the last holds the words that acc reads
    Func acc{"acc"}, weights, partial, counts;
    RVar taps, rows, lanes, count_taps, count_rows;
    std::vector<schedules::Sums> more_sums;
    schedules::ByteSums byte_sums;
    Var row{"row"}, plane{"plane"}, lane{"lane"}, vector{"vector"};

    /// Byte counters of one position at a time, of one input plane: vectors run across the output channels.
    bool across_outputs() const { return count_limit > 0 && vector_words == 1 && this->width_block == 1; }
    bool splits_phases() const { return Base::splits_phases() && !across_outputs(); }

    int word_taps() const { return word_bits.value() / word_channels.value(); }
    Expr steps() const { return (kernel_size() + (word_taps() - 1)) / word_taps(); }
    Expr word_rows() const {
        return word_taps() == 1 ? Expr((channels() + (word_channels - 1)) / word_channels) : Expr(1);
    }

    /// The unsigned type that holds `bits` bits.
    static Type holder(int bits) { return Halide::UInt(bits <= 8 ? 8 : bits <= 16 ? 16 : bits <= 32 ? 32 : 64); }

    /// The low `count` bits; all, if the type has fewer.
    static Expr mask(const Expr &count, const Type &type) {
        return select(count >= type.bits(), type.max(),
                      cast(type, (Halide::cast<uint64_t>(1) << cast<uint64_t>(clamp(count, 0, 63))) - 1));
    }

    /// Coordinates of the words of a stage.
    std::vector<Expr> words_at(const Expr &position, const Expr &of_row) const {
        return this->staged(std::vector<Expr>{position, of_row, plane, g, n});
    }
    std::vector<Var> words_args() const { return this->staged(std::vector<Var>{p, row, plane, g, n}); }

    /// From words of word_channels channels, joined(words_args()), those that acc reads: joined along the taps by
    /// doubling, and split by stride phase.
    void join_taps(Func joined) {
        const int s = word_channels;
        input.push_back(joined);
        for (int have = s; have < word_bits; have *= 2) {
            Func wider("words_" + std::to_string(2 * have));
            const Type type = holder(2 * have);
            const Expr distance = (have / s) * dilation();
            wider(words_args()) = cast(type, joined(words_at(p, row))) |
                                  (cast(type, joined(words_at(p + distance, row))) << cast(type, have));
            input.push_back(wider);
            joined = wider;
        }
        if (word_taps() > 1) {
            // Row 0: words full of taps. Row 1: the last step's, without the taps past the kernel's end.
            const Type type = Halide::UInt(word_bits);
            const Expr last_taps = kernel_size() - (steps() - 1) * word_taps();
            Func cut("words_cut");
            cut(words_args()) = joined(words_at(p, 0)) & select(row == 1, mask(last_taps * s, type), type.max());
            input.push_back(cut);
            joined = cut;
        }
        if (vector_words > 1) {
            input.push_back(by_vector(joined));
        } else if (splits_phases()) {
            input.push_back(by_phase(joined, {row, plane, g, n}, "words_by_phase"));
        }
    }

    /// The sums of all words: disagreeing() makes the differing bits of them.
    void build_sums() {
        if (carry_save) return build_carry_save_sums();
        if (vector_words > 1) return count_limit > 0 ? build_byte_sums() : build_vector_sums();
        Var k("k");
        weights = Func("weights");
        weights(o, k, row, plane, g) = weight(o % out_block, k, row, plane, o / out_block, g);
        if (count_limit == 0) {
            RDom r(0, steps(), 0, word_rows(), "r");
            taps = r.x, rows = r.y;
            const std::vector<Var> args = sums_args(w, {o, g, n});
            acc(args) = 0;
            acc(args) += cast<int32_t>(disagreements(r.x, r.y, Halide::UInt(32)));
            return;
        }
        // Sums of at most count_limit words fit in a byte.
        const WordChunks chunks(count_limit, steps(), word_rows());
        RDom r(0, chunks.tap_count, 0, chunks.row_count, "r"), all = chunks.all();
        const auto [step, channel_row] = chunks.word(r, r.x, r.y);
        count_taps = r.x, count_rows = r.y;
        counts = Func("counts");
        counts(w, o, g, n, chunks.tap_chunk, chunks.row_chunk) = Halide::cast<uint8_t>(0);
        counts(w, o, g, n, chunks.tap_chunk, chunks.row_chunk) += disagreements(step, channel_row, Halide::UInt(8));
        taps = all.x, rows = all.y;
        acc(w, o, g, n) = 0;
        acc(w, o, g, n) += cast<int32_t>(counts(w, o, g, n, all.x, all.y));
    }

    /// Differing bits of a window, as the sums have them.
    Expr disagreeing(const std::vector<Expr> &sums) {
        if (!carry_save) return acc(sums);
        return 2 * acc(sums)[1] + Halide::cast<int32_t>(popcount(Expr(acc(sums)[0])));
    }

    /// Fills the part of a schedule's stages that the sums are.
    void fill_sums(schedules::ForwardStages &stages) const {
        stages.phased = !splits_phases() ? Func() : input.back();
        stages.out_block = out_block;
        stages.element = lane;
        stages.acc = acc, stages.taps = taps, stages.rows = rows, stages.weights = weights;
        stages.more_sums = more_sums;
        stages.partial = partial, stages.lane = lane, stages.lanes = lanes, stages.vector_words = vector_words;
        stages.byte_sums = byte_sums;
        stages.counts = counts, stages.count_taps = count_taps, stages.count_rows = count_rows;
    }

private:
    /// The words of each output position's window, vector_words a vector: word row * steps() + step, zeros at the end.
    /// by_vector(lane, p, vector, ...), p being the output position.
    Func by_vector(const Func &words) {
        // Divisions, once a call instead of once a word.
        Func row_of("row_of_word"), column_of("column_of_word"), vectors("words_by_vector");
        Var i("i");
        const Expr last = window_words() - 1, at = vector * vector_words + lane;
        const Expr last_column = (steps() - 1) * word_taps() * dilation();
        row_of(i) = i / steps();
        column_of(i) = i % steps() * (word_taps() * dilation());
        tap_tables = {row_of, column_of};
        const Expr column = unsafe_promise_clamped(column_of(min(at, last)), 0, last_column);
        // As in disagreements(): row 1 is for the last step, where words join taps.
        const Expr channel_row = word_taps() == 1 ? unsafe_promise_clamped(row_of(min(at, last)), 0, word_rows() - 1)
                                                  : select(at == last, 1, 0);
        vectors(lane, p, vector, plane, g, n) =
            select(at <= last, words(p * stride() + column, channel_row, plane, g, n),
                   Halide::Internal::make_zero(Halide::UInt(word_bits)));
        return vectors;
    }
    Expr window_words() const { return steps() * word_rows(); }
    Expr window_vectors() const { return (window_words() + (vector_words - 1)) / int(vector_words); }

    /// The disagreeing bits of one word pair, weighted 2^(i + j), summed over the planes i of x and j of the weight.
    Expr disagreements(const Expr &step, const Expr &channel_row, const Type &type) {
        const Expr source_row = word_taps() == 1 ? channel_row : select(step == steps() - 1, 1, 0);
        Func words = input.back();
        Expr sum;
        for (int i = 0; i < input_planes; i++) {
            const Expr word = words(word_of_window(step, {source_row, i, g, n}));
            for (int j = 0; j < weight_planes; j++) {
                const Expr count = popcount(word ^ weights(o, step, channel_row, j, g));
                const Expr term = cast(type, count) << cast(type, i + j);
                sum = sum.defined() ? sum + term : term;
            }
        }
        return sum;
    }

    /// Coordinates of the word of a window's step.
    std::vector<Expr> word_of_window(const Expr &step, const std::vector<Expr> &rest) {
        const Expr distance = word_taps() * dilation();
        if (!across_outputs()) return reach_of_sum(w, step, distance, steps(), rest);
        std::vector<Expr> to{w * stride() + step * distance};
        to.insert(to.end(), rest.begin(), rest.end());
        return to;
    }

    /// The differing bits of one word pair, one plane each.
    Expr difference(const Expr &step, const Expr &channel_row) {
        const Expr source_row = word_taps() == 1 ? channel_row : select(step == steps() - 1, 1, 0);
        return input.back()(reach_of_sum(w, step, word_taps() * dilation(), steps(), {source_row, 0, g, n})) ^
               weight(o % out_block, step, channel_row, 0, o / out_block, g);
    }

    /// acc = (bits in the running sum, carries counted, each worth two). Words go in by pairs of rows; of an odd last
    /// row by pairs of steps; the very last alone.
    void build_carry_save_sums() {
        const std::vector<Var> args = sums_args(w, {o, g, n});
        acc(args) = Tuple(Halide::Internal::make_zero(Halide::UInt(32)), Expr(0));
        const auto add = [&](const RDom &r, const Expr &first, const Expr &second) {
            const Expr sum = acc(args)[0], carries = acc(args)[1];
            const Expr carry = ((sum ^ first) & (sum ^ second)) ^ sum; // the majority, in two instructions
            acc(args) = Tuple(sum ^ first ^ second, carries + cast<int32_t>(popcount(carry)));
            more_sums.push_back({r.x, r.y});
        };
        const Expr row_pairs = word_rows() / 2, step_pairs = steps() / 2;
        RDom r(0, steps(), 0, row_pairs, "r");
        add(r, difference(r.x, 2 * r.y), difference(r.x, 2 * r.y + 1));
        RDom odd(0, step_pairs, 0, word_rows() % 2, "odd");
        const Expr odd_row = 2 * row_pairs + odd.y;
        add(odd, difference(2 * odd.x, odd_row), difference(2 * odd.x + 1, odd_row));
        RDom last(0, steps() % 2, 0, word_rows() % 2, "last");
        add(last, difference(2 * step_pairs + last.x, 2 * row_pairs + last.y),
            Halide::Internal::make_zero(Halide::UInt(32)));
        taps = r.x, rows = r.y;
        more_sums.erase(more_sums.begin());
    }

    /// One plane, counted byte by byte in chunks of vectors: the first vector of a chunk needs no counter set to 0, and
    /// counters are added up four to one while they are bytes, so that a chunk costs no more than its counts.
    void build_byte_sums() {
        schedules::ByteSums &s = byte_sums;
        const int most = count_limit, bytes = word_bits / 8;
        const Var &byte = s.byte;
        s.bytes = bytes * vector_words;
        Var v("v"), chunk("chunk");
        const auto differing = [&](std::vector<Func> &operands, const Expr &at) {
            const Expr bit = 8 * (byte % bytes);
            Func x_bytes("x_bytes"), weight_bytes("weight_bytes");
            x_bytes(byte, w, v, g, n) = Halide::extract_bits<uint8_t>(input.back()(byte / bytes, w, v, 0, g, n), bit);
            weight_bytes(byte, o, v, g) =
                Halide::extract_bits<uint8_t>(weight(byte / bytes, o % out_block, v, 0, o / out_block, g), bit);
            operands = {x_bytes, weight_bytes};
            return Halide::cast<uint8_t>(popcount(x_bytes(byte, w, at, g, n) ^ weight_bytes(byte, o, at, g)));
        };
        RDom r(1, most - 1, "r"), all(0, 4, 0, (window_vectors() + (most - 1)) / most, "all");
        r.where(chunk * most + r < window_vectors());
        s.counts(byte, w, o, g, n, chunk) = differing(s.first, chunk * most);
        // The bound that the condition implies, said so that no words beyond are packed.
        s.counts(byte, w, o, g, n, chunk) += differing(s.next, Halide::min(chunk * most + r, window_vectors() - 1));
        s.vectors = r;
        Func whole = s.counts;
        for (const char *name : {"pairs", "quads"}) {
            Func halved(name);
            RDom pair(0, 2, "pair");
            halved(byte, w, o, g, n, chunk) = Halide::cast<uint8_t>(0);
            halved(byte, w, o, g, n, chunk) += whole(2 * byte + pair, w, o, g, n, chunk);
            s.halved.push_back(halved), s.pairs.push_back(pair);
            whole = halved;
        }
        Expr sum = whole(all.x, w, o, g, n, all.y);
        if (sum_results) {
            Func two("two"); // from memory: a constant would become a shift, and the dot product be lost
            two() = Halide::cast<uint8_t>(2);
            tap_tables.push_back(two);
            sum = Halide::cast<uint16_t>(sum) * Halide::cast<uint16_t>(two());
        }
        acc(w, o, g, n) = sum_results ? this->offset(o, g) - 2 * channels() * kernel_size() : Expr(0);
        acc(w, o, g, n) += Halide::cast<int32_t>(sum);
        lanes = all.x, taps = all.y;
    }

    /// Planes from the most significant sum on, doubling in between: no step of the inner loop shifts.
    void build_vector_sums() {
        const int words = vector_words, x_planes = input_planes, w_planes = weight_planes,
                  top = x_planes + w_planes - 2;
        RDom r(0, window_vectors(), "r"), each(0, words, "each");
        taps = r, lanes = each;
        partial = Func("partial");
        partial(lane, w, o, g, n) = Halide::Internal::make_zero(Halide::UInt(word_bits));
        for (int sum = top; sum >= 0; sum--) {
            if (sum < top) partial(lane, w, o, g, n) *= Halide::Internal::make_const(Halide::UInt(word_bits), 2);
            for (int i = std::max(0, sum - w_planes + 1); i <= std::min(sum, x_planes - 1); i++) {
                partial(lane, w, o, g, n) += popcount(input.back()(lane, w, r, i, g, n) ^
                                                      weight(lane, o % out_block, r, sum - i, o / out_block, g));
            }
        }
        acc(w, o, g, n) = 0;
        acc(w, o, g, n) += cast<int32_t>(partial(each, w, o, g, n));
    }
};

} // namespace qconv
