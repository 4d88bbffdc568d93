// Forward in floating point: any input quantizer, real weights, optional bias. Also plain conv1d.
#include "forward.h"

namespace qconv {
namespace {

using namespace Halide;

class ForwardF32F32 : public ForwardGenerator<ForwardF32F32, Buffer<float, 5>, Buffer<float, 2>> {
public:
    void generate() {
        describe_buffers({out_block});
        input.push_back(float_input());
        if (splits_phases()) input.push_back(by_phase(input.back(), {c, g, n}, "padded_by_phase"));

        RDom r(0, kernel_size(), 0, channels(), "r");
        taps = r.x, rows = r.y;
        Var k("k");
        weights(o, k, c, g) = weight(o % out_block, k, c, o / out_block, g);
        const std::vector<Var> args = sums_args(w, {o, g, n});
        acc(args) = 0.0f;
        acc(args) += input.back()(reach(summed_position(w), r.x, dilation(), kernel_size(), {r.y, g, n})) *
                     weights(o, r.x, r.y, g);
        define_output([&](const Expr &, const std::vector<Expr> &sums) { return offset(o, g) + acc(sums); }, false);
    }

    void schedule() {
        if (using_autoscheduler()) {
            return estimate_call({out_block, kernel_taps, group_channels(), out_blocks(), groups});
        }
        schedules::ForwardStages stages;
        fill(stages, input, float_input_cases());
        stages.phased = !splits_phases() ? Func() : input.back();
        stages.out_block = out_block;
        stages.acc = acc, stages.taps = taps, stages.rows = rows, stages.weights = weights;
        stages.many_rows = channels() > kernel_size();
        schedules::apply(stages, context());
    }

private:
    std::vector<Func> input;
    Func acc{"acc"}, weights{"weights"};
    RVar taps, rows;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ForwardF32F32, forward_f32f32)
