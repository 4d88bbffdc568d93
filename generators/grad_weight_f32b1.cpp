// grad_weight of inputs of one bit by table lookup. For every group of G = table_channels neighbouring output positions
// a table holds, for each output channel, the 2^G sums of their gradients times bits; each input channel and tap then
// adds the one entry that the bits of its G inputs choose: G multiply-accumulates an addition, over a vector of output
// channels.
#include "grad_weight.h"
#include "lookup.h"
#include "turn.h"

namespace qconv {
namespace {

using namespace Halide;

class GradWeightF32B1 : public GradWeightGenerator<GradWeightF32B1> {
public:
    GeneratorParam<int> table_channels{"table_channels", 5};
    GeneratorParam<int> tables{"tables", 4};

    void generate() {
        describe_buffers();
        const int positions = table_channels;

        transposed(o, w, g, n) = gradient(w, o);
        Var q("q"); // group of positions
        lookup = build_table(
            positions, {o}, j, {q, g, n}, [&](int b) { return transposed(o, q * positions + b, g, n); }, clear_share());

        // index(p, ...): the bits at p and at the positions that the next outputs see, as a table entry.
        bits(p, c, g, n) = quantizers::choose(from_state(), cast<uint8_t>(state_bit(p, 0, c)), bit_of_input());
        padded(p, c, g, n) = select(likely(inside(p)), bits(position(p), c, g, n), cast<uint8_t>(0));
        Expr entry = padded(p, c, g, n);
        for (int b = 1; b < positions; b++)
            entry = entry | (padded(p + b * stride(), c, g, n) << cast<uint8_t>(b));
        index(p, c, g, n) = entry;

        const Expr chunks_of_tile = tile_width / (positions * tables);
        RDom r(0, tables, 0, chunks_of_tile, 0, tiles(), 0, batch(), "r");
        table_number = r[0], chunk = r[1], tile = r[2], sample = r[3];
        const Expr group = (r[2] * chunks_of_tile + r[1]) * tables + r[0];
        const Expr channel = min(c, channels() - 1); // squares of the result reach past the last
        const Expr chosen = cast<int32_t>(index(group * positions * stride() + k * dilation(), channel, g, r[3]));
        sum_outside();
        acc(o, k, c, g) = pad_delta * outside(o, k, g);
        acc(o, k, c, g) += lookup.table(o, unsafe_promise_clamped(chosen, 0, (1 << positions) - 1), group, g, r[3]);
        grad_weight(at, c, o, g) = factor_of(at) * turned_sum();
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call(estimated_tile());
        schedules::GradWeightLookupStages stages;
        fill(stages);
        stages.transposed = transposed, stages.bits = bits, stages.bits_cases = {from_state()}, stages.padded = padded,
        stages.index = index;
        stages.table = lookup.table, stages.halves = lookup.halves, stages.entry = j;
        stages.table_entries = 1 << table_channels;
        stages.acc = acc, stages.tables = table_number, stages.chunk = chunk, stages.tile = tile,
        stages.sample = sample;
        stages.outside = outside;
        if (!specialised()) stages.places = places;
        stages.at = at, stages.turn = turn.steps, stages.pair = turn.pair, stages.along = turn.along,
        stages.side = side();
        stages.tile_weights = (tile_channels * kernel_size() + (side() - 1)) / side() * side();
        schedules::apply(stages, context());
    }

private:
    bool joins_taps() const override { return true; }
    /// A set bit stands for +1, a clear one for -1 times this: for 0 where it is a level.
    Expr clear_share() const { return select(quantizer == QCONV_INPUTDOREFA, 0.0f, 1.0f); }
    /// The bit at position p of an x that is taken by sign.
    Expr bit_of_input() const { return cast<uint8_t>(!strict_float(x(position_of_x(p, last_of_x()), c, g, n) < 0.0f)); }
    /// The largest square of vectors that the turning takes and that output channels fall into.
    int side() const { return std::min(out_block.value() & -out_block.value(), 16); }

    /// The sum at (at, o, g): sums lie next to each other along o, the result along at = c * kernel_size + k.
    Expr turned_sum() {
        if (using_autoscheduler()) return acc(o, at % kernel_size(), at / kernel_size(), g);
        Var column("column"), row("row"), square("square"), block("block");
        Func sums("square_of_sums");
        const Expr first = square * side(), last = first + (side() - 1);
        const Expr place = min(first + row, weight_extents()[0] - 1);
        Expr tap = place % kernel_size(), channel = place / kernel_size();
        if (!specialised()) {
            // Divisions would take longer than all else that the turning does.
            fill_places();
            tap = unsafe_promise_clamped(places(place)[0], 0, kernel_size() - 1);
            channel = unsafe_promise_clamped(places(place)[1], first / kernel_size(), last / kernel_size());
        }
        sums(column, row, square, block, g) = acc(block * side() + column, tap, channel, g);
        turn = Turn(sums, side(), {square, block, g});
        return turn.turned(o % side() * side() + at % side(), {at / side(), o / side(), g});
    }

    /// places(at): tap and channel of a weight.
    void fill_places() {
        RDom r(0, kernel_size(), 0, channels(), "place");
        places(at) = Tuple(undef<int32_t>(), undef<int32_t>());
        places(r.y * kernel_size() + r.x) = Tuple(r.x, r.y);
    }

    Func transposed{"transposed"}, bits{"bits"}, padded{"padded"}, index{"index"}, acc{"acc"}, outside{"outside"},
        places{"places"};
    LookupTable lookup;
    Turn turn;
    Var at{"at"}; // weight of an output channel
    Var j{"j"};   // entry of a table
    RVar table_number, chunk, tile, sample;

    /// outside(o, k, g): the sum of gy over the outputs whose tap k falls outside x.
    void sum_outside() {
        RDom left(0, edge_left, 0, batch(), "left");
        RDom right(edge_right, width_out() - edge_right, 0, batch(), "right");
        const auto tap = [&](const Expr &column) { return column * stride() + k * dilation() - pad_left; };
        const Expr output = min(o, outputs() - 1);
        outside(o, k, g) = 0.0f;
        outside(o, k, g) += select(tap(left.x) < 0, grad_output(left.x, output, g, left.y), 0.0f);
        outside(o, k, g) += select(tap(right.x) >= width(), grad_output(right.x, output, g, right.y), 0.0f);
    }
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradWeightF32B1, grad_weight_f32b1)
