// grad_input in floating point: any weights.
#include "grad_input.h"

namespace qconv {
namespace {

using namespace Halide;

class GradInputF32F32 : public GradInputGenerator<GradInputF32F32, Buffer<float, 5>> {
public:
    void generate() {
        describe_buffers();
        weight.dim(0).set_extent(int(out_block));
        padded = padded_gradient();
        RDom r(0, kernel_size(), 0, outputs(), "r");
        keep_phase(r, r.x);
        taps = r.x, rows = r.y;
        const std::vector<Var> args = sums_args(column, {phase, c, g, n});
        acc(args) = 0.0f;
        acc(args) +=
            padded(reach(summed_position(column), r.x), r.y, g, n) * weight(c % out_block, r.x, r.y, c / out_block, g);
        define_result(acc);
    }

    void schedule() {
        if (using_autoscheduler()) {
            return estimate_call(
                {out_block, kernel_taps, group_outputs(), blocks(group_channels(), out_block), groups});
        }
        schedules::GradInputSumStages stages;
        fill(stages, padded);
        stages.channel_block = out_block;
        stages.acc = acc, stages.taps = taps, stages.rows = rows;
        schedules::apply(stages, context());
    }

private:
    Func padded, acc{"acc"};
    RVar taps, rows;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradInputF32F32, grad_input_f32f32)
