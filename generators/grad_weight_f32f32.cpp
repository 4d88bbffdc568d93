// grad_weight in floating point, vectors along output channels.
#include "grad_weight.h"

namespace qconv {
namespace {

using namespace Halide;

class GradWeightF32F32 : public GradWeightGenerator<GradWeightF32F32> {
public:
    GeneratorParam<int> channel_block{"channel_block", 8};
    GeneratorParam<int> tap_block{"tap_block", 1};

    void generate() {
        describe_buffers();
        transposed(o, w, g, n) = gradient(w, o);
        values = input_values();
        padded = padded_values(values);

        // part sums one tile of positions in registers, acc the tiles.
        Var t("t");
        RDom r(0, tile_width, "r");
        const Expr at = t * tile_width + r;
        part(o, k, c, g, t, n) = 0.0f;
        part(o, k, c, g, t, n) += transposed(o, at, g, n) * padded(at * stride() + k * dilation(), c, g, n);
        RDom all(0, tiles(), 0, batch(), "all");
        acc(o, k, c, g) = 0.0f;
        acc(o, k, c, g) += part(o, k, c, g, all.x, all.y);
        positions = r.x, tile = all.x, sample = all.y;
        grad_weight(k, c, o, g) = factor_of(k) * acc(o, k, c, g);
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call(estimated_tile());
        schedules::GradWeightSumStages stages;
        fill(stages);
        stages.transposed = transposed, stages.padded = padded;
        stages.part = part, stages.positions = positions;
        stages.channel_block = channel_block, stages.tap_block = tap_block;
        stages.acc = acc, stages.tile = tile, stages.sample = sample;
        schedules::apply(stages, context());
    }

private:
    Func transposed{"transposed"}, values, padded, part{"part"}, acc{"acc"};
    RVar positions, tile, sample;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradWeightF32F32, grad_weight_f32f32)
