// grad_weight in floating point, vectors along positions: for layers with few output channels a group.
#include "grad_weight.h"

namespace qconv {
namespace {

using namespace Halide;

class GradWeightRows : public GradWeightGenerator<GradWeightRows> {
public:
    GeneratorParam<int> tap_block{"tap_block", 8};

    void generate() {
        describe_buffers();
        const int lanes = width_block;
        Var l("l"), t("t");
        rows(w, o, g, n) = gradient(w, o);
        values = input_values();
        padded = padded_values(values);
        input = !splits_phases() ? padded : by_phase(padded, {c, g, n}, "padded_by_phase");

        // part sums vectors of one tile of positions in registers; acc adds up their lanes, and the tiles.
        RDom r(0, tile_width / lanes, "r");
        const Expr at = t * tile_width + r * lanes + l;
        part(l, k, c, o, g, t, n) = 0.0f;
        const Expr tap = min(k, kernel_size() - 1); // blocks of taps reach past the last
        part(l, k, c, o, g, t, n) += rows(at, o, g, n) * input(reach(at, tap, dilation(), kernel_size(), {c, g, n}));
        RDom all(0, lanes, 0, tiles(), 0, batch(), "all");
        acc(k, c, o, g) = 0.0f;
        acc(k, c, o, g) += part(all.x, k, c, o, g, all.y, all.z);
        vectors = r.x, lane = all.x, tile = all.y, sample = all.z;
        grad_weight(k, c, o, g) = factor_of(k) * acc(k, c, o, g);
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call(estimated_tile());
        schedules::GradWeightRowStages stages;
        fill(stages);
        stages.rows = rows, stages.padded = padded;
        stages.phased = !splits_phases() ? Func() : input;
        stages.tap_tables = tap_tables;
        stages.part = part, stages.vectors = vectors, stages.tap_block = tap_block, stages.width_block = width_block;
        stages.acc = acc, stages.lane = lane, stages.tile = tile, stages.sample = sample;
        schedules::apply(stages, context());
    }

private:
    Func rows{"rows"}, values, padded, input, part{"part"}, acc{"acc"};
    RVar vectors, lane, tile, sample;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradWeightRows, grad_weight_rows)
