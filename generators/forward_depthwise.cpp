// Forward of depthwise layers in floating point: groups of one channel and one output. Vectors run along neighbouring
// groups, so that wherever a window begins, its taps are whole vectors in memory. Tensors run along positions: input
// and result are turned, square by square.
#include "forward.h"
#include "turn.h"

#include <stdexcept>

namespace qconv {
namespace {

using namespace Halide;

class ForwardDepthwise : public ForwardGenerator<ForwardDepthwise, Buffer<float, 3>, Buffer<float, 2>> {
public:
    GeneratorParam<int> group_block{"group_block", 16};

    void generate() {
        describe_buffers({group_block});
        padded = float_input();
        across(lane, p, block, n) = turned_input();
        RDom k(0, kernel_size(), "k");
        taps = k.x;
        acc(lane, w, block, n) = 0.0f;
        acc(lane, w, block, n) += across(lane, w * stride() + k * dilation(), block, n) * weight(lane, k, block);
        y(w, o, g, n) = offset(o, g) + turned_sum();
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call({side(), kernel_taps, blocks(groups, side())});
        schedules::DepthwiseStages stages;
        fill(stages, {padded}, float_input_cases());
        stages.tile_width = tile_width / side() * side(); // as it is: said so that squares are known to be whole
        stages.sums = {.across = across,
                       .acc = acc,
                       .taps = taps,
                       .lane = lane,
                       .block = block,
                       .square = square,
                       .pair = input_turn.pair,
                       .along = input_turn.along,
                       .turn_input = input_turn.steps,
                       .turn_sums = sums_turn.steps,
                       .side = side()};
        schedules::apply(stages, context());
    }

private:
    /// Groups side by side, and positions of a square.
    int side() const {
        const int groups_together = group_block;
        if (groups_together < 2 || (groups_together & (groups_together - 1)) != 0 || width_block % groups_together != 0)
            throw std::invalid_argument("group_block must be a power of two, at least 2, and divide width_block");
        return groups_together;
    }

    /// The input of group block * side + lane, of the last one past the end, at padded position p.
    Expr turned_input() {
        const Expr last = constant_or(groups, x.dim(2).extent()) - 1;
        if (using_autoscheduler()) return padded(p, 0, min(block * side() + lane, last), n);
        Func rows("rows");
        rows(column, row, square, block, n) = padded(square * side() + column, 0, min(block * side() + row, last), n);
        input_turn = Turn(rows, side(), {square, block, n});
        return input_turn.turned(p % side() * side() + lane, {p / side(), block, n});
    }

    /// The sum at (w, g).
    Expr turned_sum() {
        if (using_autoscheduler()) return acc(g % side(), w, g / side(), n);
        Func columns("columns");
        columns(column, row, square, block, n) = acc(column, square * side() + row, block, n);
        sums_turn = Turn(columns, side(), {square, block, n});
        return sums_turn.turned(g % side() * side() + w % side(), {w / side(), g / side(), n});
    }

    Func padded, across{"across"}, acc{"acc"};
    Turn input_turn, sums_turn;
    Var lane{"lane"}, block{"block"}, column{"column"}, row{"row"}, square{"square"};
    RVar taps;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ForwardDepthwise, forward_depthwise)
