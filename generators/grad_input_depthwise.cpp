// grad_input of depthwise layers, with unit stride: as forward_depthwise, with the gradient in place of the input.
#include "grad_input.h"
#include "turn.h"

#include <stdexcept>

namespace qconv {
namespace {

using namespace Halide;

class GradInputDepthwise : public GradInputGenerator<GradInputDepthwise, Buffer<float, 3>> {
public:
    GeneratorParam<int> group_block{"group_block", 16};

    void generate() {
        describe_buffers();
        weight.dim(0).set_extent(int(group_block));
        padded = padded_gradient();
        across(lane, p, block, n) = turned_gradient();
        RDom t(0, kernel_size(), "t");
        taps = t.x;
        acc(lane, column, block, n) = 0.0f;
        acc(lane, column, block, n) += across(lane, reach(column, t), block, n) * weight(lane, t, block);
        sums(column, phase, c, g, n) = turned_sum();
        define_result(sums);
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call({side(), kernel_taps, blocks(groups, side())});
        schedules::GradInputDepthwiseStages stages;
        fill(stages, padded);
        stages.tile_width = tile_width / side() * side(); // as it is: said so that squares are known to be whole
        stages.sums = {.across = across,
                       .acc = acc,
                       .taps = taps,
                       .lane = lane,
                       .block = block,
                       .square = square,
                       .pair = gradient_turn.pair,
                       .along = gradient_turn.along,
                       .turn_input = gradient_turn.steps,
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

    /// The gradient of group block * side + lane, of the last one past the end, at position p.
    Expr turned_gradient() {
        const Expr last = constant_or(groups, grad_output.dim(2).extent()) - 1;
        if (using_autoscheduler()) return padded(p, 0, min(block * side() + lane, last), n);
        Func rows("rows");
        rows(place, row, square, block, n) = padded(square * side() + place, 0, min(block * side() + row, last), n);
        gradient_turn = Turn(rows, side(), {square, block, n});
        return gradient_turn.turned(p % side() * side() + lane, {p / side(), block, n});
    }

    /// The sum at (column, g).
    Expr turned_sum() {
        if (using_autoscheduler()) return acc(g % side(), column, g / side(), n);
        Func columns("columns");
        columns(place, row, square, block, n) = acc(place, square * side() + row, block, n);
        sums_turn = Turn(columns, side(), {square, block, n});
        return sums_turn.turned(g % side() * side() + column % side(), {column / side(), g / side(), n});
    }

    Func padded, across{"across"}, acc{"acc"}, sums{"sums"};
    Turn gradient_turn, sums_turn;
    Var lane{"lane"}, block{"block"}, place{"place"}, row{"row"}, square{"square"};
    RVar taps;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradInputDepthwise, grad_input_depthwise)
