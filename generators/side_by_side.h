// What the generators of depthwise layers share: groups of one channel and one output, several side by side. Vectors
// run along neighbouring groups, so that wherever a window begins, its taps are whole vectors in memory. Tensors run
// along positions: input and result are turned, square by square.
#pragma once

#include <functional>
#include <stdexcept>

#include "Halide.h"
#include "schedules/schedule.h"
#include "turn.h"

namespace qconv {

/// Base: a generator with weight(lane, tap, block), kernel_size(), tile_width and width_block.
template <class Base>
class SideBySideGenerator : public Base {
protected:
    using Expr = Halide::Expr;
    using Func = Halide::Func;
    using Var = Halide::Var;
    using Base::g, Base::n, Base::p;

public:
    Halide::GeneratorParam<int> group_block{"group_block", 16};

protected:
    /// Groups side by side, and positions of a square.
    int side() const {
        const int together = group_block;
        if (together < 2 || (together & (together - 1)) != 0 || this->width_block % together != 0)
            throw std::invalid_argument("group_block must be a power of two, at least 2, and divide width_block");
        return together;
    }

    /// acc(lane, at, block, n): the sums of group block * side + lane over its taps; `reach` has the position of
    /// source(p, 0, g, n) that meets a tap.
    void build_sums(const Func &source, const Expr &group_count, const Var &at,
                    const std::function<Expr(const Expr &tap)> &reach) {
        across(lane, p, block, n) = turned_source(source, group_count - 1);
        Halide::RDom k(0, this->kernel_size(), "k");
        taps = k.x;
        acc(lane, at, block, n) = 0.0f;
        acc(lane, at, block, n) += across(lane, reach(k), block, n) * this->weight(lane, k, block);
    }

    /// The sum at (at, g), `at` being that of build_sums().
    Expr turned_sum(const Var &at) {
        if (this->using_autoscheduler()) return acc(g % side(), at, g / side(), n);
        Func columns("columns");
        columns(place, row, square, block, n) = acc(place, square * side() + row, block, n);
        sums_turn = Turn(columns, side(), {square, block, n});
        return sums_turn.turned(g % side() * side() + at % side(), {at / side(), g / side(), n});
    }

    std::vector<int> weight_estimates() const {
        return {side(), this->kernel_taps, this->blocks(this->groups, side())};
    }

    /// Fills the part of a schedule's stages that these sums are.
    template <class Stages>
    void fill_sums(Stages &stages) const {
        stages.tile_width = this->tile_width / side() * side(); // as it is: said so that squares are known to be whole
        stages.sums = {.across = across,
                       .acc = acc,
                       .taps = taps,
                       .lane = lane,
                       .block = block,
                       .square = square,
                       .pair = source_turn.pair,
                       .along = source_turn.along,
                       .turn_input = source_turn.steps,
                       .turn_sums = sums_turn.steps,
                       .side = side()};
    }

private:
    /// The source of group block * side + lane, of the last one past the end, at position p.
    Expr turned_source(const Func &source, const Expr &last) {
        if (this->using_autoscheduler()) return source(p, 0, min(block * side() + lane, last), n);
        Func rows("rows");
        rows(place, row, square, block, n) = source(square * side() + place, 0, min(block * side() + row, last), n);
        source_turn = Turn(rows, side(), {square, block, n});
        return source_turn.turned(p % side() * side() + lane, {p / side(), block, n});
    }

    Func across{"across"}, acc{"acc"};
    Turn source_turn, sums_turn;
    Var lane{"lane"}, block{"block"}, place{"place"}, row{"row"}, square{"square"};
    Halide::RVar taps;
};

} // namespace qconv
