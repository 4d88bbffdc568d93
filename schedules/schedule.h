// The seam between algorithms and schedules. A generator fills one of the structs below; apply() schedules it for the
// target. Schedules define no Func; generators read no target.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "Halide.h"

namespace qconv::schedules {

/// One of several formulas that is chosen at run time, at the position that its consumer computes: wanted there, if the
/// consumer reads it at all. Each of the cases leaves one formula, and so does none of them.
struct KindStage {
    Halide::Func stage;
    std::vector<Halide::Expr> cases;
};

/// The values of a quantized input, values(i, c, g, n) at the positions of x, 32 of which may share words of a state:
/// wanted once per call, if at all. The stage that pads the input reads them in no case of padded_cases.
struct InputValues {
    Halide::Func values{"values"};
    std::vector<Halide::Expr> values_cases, padded_cases;
    std::vector<KindStage> values_kinds; ///< what values is made of
};

/// What every forward convolution has. Vars are shared by all Funcs that have them.
struct OutputStages {
    /// y(w, o, g, n), with two update definitions (left and right edge columns) on the packed paths.
    Halide::Func y;
    Halide::Var w, o, g, n;
    Halide::Expr tile_width; ///< output positions per task
    int width_block = 1;     ///< output positions computed together

    /// Above 1: sums over positions have the Var in_warp, the position within `warp` neighbours, one to a thread; and y
    /// has one update, which makes the edges too, over the warps of a tile (strip), their threads and the tiles.
    int warp = 1;
    Halide::Var in_warp;
    Halide::RVar strip, thread, tile;

    /// Input stages in order of computation, indexed by padded position p (or p and stride phase) first: quantized,
    /// packed, joined, split by phase. Each is wanted once per task; with tile_input, once per tile, whose elements the
    /// last stage has counted from the tile's first.
    std::vector<Halide::Func> input;
    Halide::Var p;
    bool tile_input = false;
    Halide::Var input_tile;
    /// Conditions worth code of their own for the first input stage, and the values that it reads in the other cases
    /// (no values_cases: there are none).
    std::vector<Halide::Expr> first_stage_cases;
    InputValues prepared;
    /// Small tables indexed by step, wanted once per call. May be empty.
    std::vector<Halide::Func> tap_tables;
    /// The input stage that splits positions by stride phase (undefined: none), and strides worth code of their own.
    Halide::Func phased;
    std::vector<Halide::Expr> phase_cases;
    /// Stages that have this Var interleave elements into words: it is innermost in memory. May be unused.
    Halide::Var element;
};

/// The reduction variables of one update definition.
struct Sums {
    Halide::RVar taps, rows;
};

/// Popcounts in bytes of vectors of words: counts(byte, w, o, g, n, chunk) starts with one vector of a chunk, and one
/// update over `vectors` adds the others. Each of `halved` adds up `pairs` of bytes of the one before.
struct ByteSums {
    Halide::Func counts{"counts"};
    Halide::Var byte{"byte"};
    int bytes = 0; ///< of a vector
    Halide::RVar vectors;
    /// The bytes of x and of the weights, of the first vector and of the others: x(byte, w, ...), weight(byte, o, ...).
    std::vector<Halide::Func> first, next;
    std::vector<Halide::Func> halved;
    std::vector<Halide::RVar> pairs;
};

/// A forward convolution by multiply-accumulate, popcount or dot product.
struct ForwardStages : OutputStages {
    int out_block = 1; ///< output channels computed together; o of acc is padded up to it
    /// The reduction: acc(w, o, g, n), one update over `taps` and `rows`, then those of more_sums (of the leftovers).
    Halide::Func acc;
    Halide::RVar taps, rows;
    Halide::Expr many_rows; ///< there are more of them than taps; may be undefined
    std::vector<Sums> more_sums;
    /// Set where acc also sums the elements of a word: the reduction of a dot-product instruction.
    Halide::RVar dot;
    bool has_dot = false;
    int dot_elements = 1;
    /// window(w, g, n), wanted once per task, of window_acc(w, g, n): one update over the reduction of acc. May be
    /// undefined.
    Halide::Func window, window_acc;
    /// Sums narrower than acc: counts(w, o, g, n, tap chunk, row chunk) feeds acc in place of the words. Else
    /// undefined.
    Halide::Func counts;
    Halide::RVar count_taps, count_rows;
    /// patch(element, w, step, row, g, n): the words that an output position meets, which acc reads through it. Left to
    /// the sums, or laid out for a strip. May be undefined.
    Halide::Func patch;
    /// What counts adds up, where `dot` is its own reduction: word_sum(w, o, step, row, g, n). Else undefined.
    Halide::Func word_sum;
    /// The weights of a step, weights([element,] o, ...): wanted once for all positions of a strip. May be undefined.
    Halide::Func weights;
    /// Where vectors hold words of one position: partial(lane, w, o, g, n) has a sum for each lane, one update over
    /// taps and rows, and acc adds up the `vector_words` lanes over `lanes`. Else undefined.
    Halide::Func partial;
    Halide::Var lane;
    Halide::RVar lanes;
    int vector_words = 1;
    /// In place of `partial` where `first` is not empty: acc adds up the last of `halved`, of each chunk over taps,
    /// over `lanes`.
    ByteSums byte_sums;
};

/// A forward convolution by popcount whose result is packed signs: y(w, row, g, n) from words(w, row, g, n), whose one
/// update goes over the `blocks` of out_block channels in 32. acc is as in any forward convolution; o is its channel.
struct BitsStages : ForwardStages {
    Halide::Func words;
    Halide::Var row;
    Halide::RVar blocks;
    /// Conditions worth code of their own for that update.
    std::vector<Halide::Expr> cases;
};

/// Signs packed from float: y(p, row, n) from words(p, row, n), whose one update goes over the channels of a word.
struct ToBitsStages {
    Halide::Func y, words;
    Halide::Var p, row, n;
};

/// Sums of groups of one channel and one output, `side` groups side by side: acc(lane, w, block, n), one update over
/// `taps`, of `across`(lane, p, block, n), which is wanted once per task. `across` comes from the last of turn_input,
/// the result from the last of turn_sums, step(pair, along, row, square, block, n): they turn squares, as
/// GradWeightLookupStages::turn does.
struct SideBySide {
    Halide::Func across, acc;
    Halide::RVar taps;
    Halide::Var lane, block, square, pair, along;
    std::vector<Halide::Func> turn_input, turn_sums;
    int side = 1;
};

/// A forward convolution of depthwise layers.
struct DepthwiseStages : OutputStages {
    SideBySide sums;
};

/// A forward convolution by table lookup.
struct LookupStages : OutputStages {
    /// table(p [, phase], entry, channel group, g, n), and the two half sums it adds.
    std::vector<Halide::Func> halves;
    Halide::Func table;
    Halide::Var entry;
    int table_entries = 0;
    /// part(w, o, g, n, chunk): sum over `taps` and the `tables` in use at once. acc: sum of part over `chunks`.
    Halide::Func part, acc;
    Halide::RVar taps, tables, chunks;
};

/// What grad_input has on every path. One task: one batch entry, one group, tile_width columns in all their phases.
struct GradInputStages {
    /// grad_input(phase, column, c, g, n): pure if unit_stride; else one update, over result_phase and result_column.
    Halide::Func grad_input;
    bool unit_stride = false;
    Halide::RVar result_phase, result_column;
    Halide::Var i, c, g, n, p, o;
    Halide::Expr tile_width; ///< columns per task
    int width_block = 1;     ///< columns computed together
    /// As in OutputStages; above 1, grad_input has such an update, over result_phase as well.
    int warp = 1;
    Halide::Var in_warp;
    Halide::RVar strip, thread, tile;
    /// padded(p, o, g, n): wanted once per task.
    Halide::Func padded;
    /// factor(column, phase, c, g, n) and, with unit stride, passes(i, c, g, n), its bytes from words of 32 positions:
    /// wanted for one channel of a strip. Cases worth code of their own.
    Halide::Func passes, factor;
    std::vector<Halide::Expr> passes_cases, factor_cases;
    std::vector<KindStage> factor_kinds; ///< what factor is made of, in the other cases
    /// acc(column, phase, c, g, n): the sums.
    Halide::Func acc;
    Halide::Var column, phase;
};

/// grad_input by multiply-accumulate, of channel_block channels together: the update of acc runs over `taps`, and adds
/// part(column, phase, c, g, n, tap), whose runs over `rows`; of one channel (part undefined) it runs over both.
struct GradInputSumStages : GradInputStages {
    int channel_block = 1;
    Halide::Func part;
    Halide::RVar taps, rows;
};

/// grad_input by table lookup; the stages are those of LookupStages, with column and phase in place of w.
struct GradInputLookupStages : GradInputStages {
    std::vector<Halide::Func> halves;
    Halide::Func table;
    Halide::Var entry;
    int table_entries = 0;
    Halide::Func part;
    Halide::RVar taps, tables, chunks;
};

/// grad_input of depthwise layers with unit stride; w is the column.
struct GradInputDepthwiseStages : GradInputStages {
    SideBySide sums;
};

/// What grad_weight has in every form: grad_weight(k, c, o, g). The sums over positions and batch are made within a
/// task.
struct GradWeightStages {
    Halide::Func grad_weight;
    Halide::Var k, c, o, g, n, p, w;
    Halide::Expr tile_channels; ///< input channels per task
    int out_block = 1;          ///< output channels per task
    /// Conditions worth code of their own for the result.
    std::vector<Halide::Expr> cases;
    /// acc over (k, c, o, g), in some order: one update over `tile` tiles of positions of every `sample`, and more.
    Halide::Func acc;
    Halide::RVar tile, sample;
    /// The input at padded positions, padded(p, c, g, n), of the float forms from prepared values.
    Halide::Func padded;
    InputValues prepared;
};

/// grad_weight by table lookup: acc(o, k, c, g).
struct GradWeightLookupStages : GradWeightStages {
    /// gy as transposed(o, w, g, n), wanted once per tile.
    Halide::Func transposed;
    /// The bits of x, bits(p, c, g, n), 32 positions of which share a word of the state, with cases; padded is made of
    /// them, and index(p, c, g, n) of padded: table entries. All are bytes, wanted once per call.
    Halide::Func bits, index;
    std::vector<Halide::Expr> bits_cases;
    /// table(o, entry, group of positions, g, n), and the two half sums it adds; wanted once per `chunk` of `tables`.
    Halide::Func table;
    std::vector<Halide::Func> halves;
    Halide::Var entry;
    int table_entries = 0;
    Halide::RVar tables, chunk;
    /// outside(o, k, g): two updates over a few columns.
    Halide::Func outside;
    /// The result runs along `at`, tile_weights of them a task, in place of k and c (which is 0). It comes from the
    /// last of `turn`, which turn squares of `side` outputs and weights: each step(pair, along, row, ...) makes the
    /// numbers of `pair` rows of the one before neighbours.
    Halide::Var at;
    Halide::Expr tile_weights;
    std::vector<Halide::Func> turn;
    Halide::Func places; ///< a small table indexed by `at` (undefined: none), wanted once per call
    Halide::Var pair, along;
    int side = 1;
};

/// grad_weight by multiply-accumulate along output channels: acc(o, k, c, g) adds up part(o, k, c, g, tile, n), whose
/// update runs over `positions`, for tap_block taps and channel_block input channels together.
struct GradWeightSumStages : GradWeightStages {
    Halide::Func transposed; ///< transposed(o, w, g, n), wanted once per tile
    Halide::Func part;
    Halide::RVar positions;
    int channel_block = 1, tap_block = 1;
};

/// grad_weight by multiply-accumulate along positions: acc(k, c, o, g) adds up, over `lane`, the vectors of width_block
/// sums part(lane, k, c, o, g, tile, n), whose update runs over `vectors`, for tap_block taps together.
struct GradWeightRowStages : GradWeightStages {
    Halide::Func rows; ///< rows(w, o, g, n): gy, wanted once per tile
    /// padded split by stride phase (undefined: none), and small tables indexed by tap, wanted once per call.
    Halide::Func phased;
    std::vector<Halide::Func> tap_tables;
    Halide::Func part;
    Halide::RVar vectors, lane;
    int tap_block = 1, width_block = 1;
};

/// grad_weight by multiply-accumulate in pieces of positions side by side: acc(o, k, c, g) adds up total(o, k, c, g,
/// piece) over `pieces`, that part(lane, o, k, c, g, piece) over the `warp` lanes, and its update runs over `positions`
/// of `blocks`; for out_block outputs, channel_block input channels and tap_block taps together.
struct GradWeightPieceStages : GradWeightStages {
    Halide::Func rows;  ///< rows(w, o, g, n): gy, wanted once per call; so is padded
    Halide::Func taken; ///< taken(c, lane, step, block, k, g): what part reads of padded
    Halide::Func part, total;
    Halide::Var lane, piece;
    Halide::RVar positions, blocks, lanes, pieces;
    int channel_block = 1, tap_block = 1, warp = 1;
};

/// The state saved for backward: state(word, plane, row), with cases worth code of their own, from `joined`, whose one
/// update joins the `bits` of a word. It takes them from packed(i, word, row), of all planes together: wanted once per
/// word.
struct StateStages {
    Halide::Func state, joined, packed;
    Halide::Var word, plane, row, i;
    Halide::RVar bits;
    std::vector<Halide::Expr> cases;
};

/// The sums of grad_output: grad_bias(o) from total(o), which adds up joint(lane, o), and that part(lane, o), whose
/// update goes over `rows` of a lane each.
struct GradBiasStages {
    Halide::Func grad_bias, part, joint, total;
    Halide::Var o, lane;
    Halide::RVar rows;
};

/// One architecture's schedules: each apply() schedules every stage.
class Schedules {
public:
    virtual ~Schedules() = default;
    virtual void apply(const ForwardStages &stages, const Halide::Target &target) const = 0;
    virtual void apply(const LookupStages &stages, const Halide::Target &target) const = 0;
    virtual void apply(const GradInputSumStages &stages, const Halide::Target &target) const = 0;
    virtual void apply(const GradInputLookupStages &stages, const Halide::Target &target) const = 0;
    virtual void apply(const GradWeightLookupStages &stages, const Halide::Target &target) const = 0;
    virtual void apply(const StateStages &stages, const Halide::Target &target) const = 0;
    // Not every architecture chains layers through bits or turns squares, sums positions within a task or in pieces
    // side by side, and the CPU sums a bias's gradient without a kernel.
    virtual void apply(const GradWeightSumStages &, const Halide::Target &target) const {
        throw none("grad_weight by tiles of positions", target);
    }
    virtual void apply(const GradWeightRowStages &, const Halide::Target &target) const {
        throw none("grad_weight by tiles of positions", target);
    }
    virtual void apply(const GradWeightPieceStages &, const Halide::Target &target) const {
        throw none("grad_weight by pieces of positions", target);
    }
    virtual void apply(const DepthwiseStages &, const Halide::Target &target) const {
        throw none("groups side by side", target);
    }
    virtual void apply(const GradInputDepthwiseStages &, const Halide::Target &target) const {
        throw none("groups side by side", target);
    }
    virtual void apply(const BitsStages &, const Halide::Target &target) const { throw none("packed signs", target); }
    virtual void apply(const ToBitsStages &, const Halide::Target &target) const { throw none("packed signs", target); }
    virtual void apply(const GradBiasStages &, const Halide::Target &target) const { throw none("grad_bias", target); }

private:
    static std::invalid_argument none(const std::string &what, const Halide::Target &target) {
        return std::invalid_argument("no schedules for " + what + " on " + target.to_string());
    }
};

/// One file each.
const Schedules &x86();
const Schedules &arm();
const Schedules &gpu();

/// The schedules of the target's architecture; throws std::invalid_argument where there are none.
const Schedules &schedules_for(const Halide::Target &target);

/// Schedules every stage for the generator's target.
template <class Stages>
void apply(const Stages &stages, const Halide::GeneratorContext &context) {
    schedules_for(context.target()).apply(stages, context.target());
}

} // namespace qconv::schedules
