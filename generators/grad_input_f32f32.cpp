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
        const auto product = [&](const Expr &tap, const Expr &row) {
            return padded(reach(summed_position(column), tap), row, g, n) *
                   weight(c % out_block, tap, row, c / out_block, g);
        };
        RDom row(0, outputs(), "row"), tap(0, kernel_size(), "tap"), both(0, kernel_size(), 0, outputs(), "both");
        const std::vector<Var> args = sums_args(column, {phase, c, g, n});
        acc(args) = 0.0f;
        if (sums_by_tap()) {
            // part sums the output channels of one tap, acc the taps: as PyTorch does, and sums of many round less.
            Var k("k");
            const std::vector<Var> of_tap = sums_args(column, {phase, c, g, n, k});
            part(of_tap) = 0.0f;
            part(of_tap) += product(k, row);
            keep_phase(tap, tap.x);
            std::vector<Expr> at_tap(args.begin(), args.end());
            at_tap.emplace_back(tap);
            acc(args) += part(at_tap);
            taps = tap.x, rows = row.x;
        } else {
            keep_phase(both, both.x);
            acc(args) += product(both.x, both.y);
            taps = both.x, rows = both.y;
        }
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
        if (sums_by_tap()) stages.part = part;
        stages.acc = acc, stages.taps = taps, stages.rows = rows;
        schedules::apply(stages, context());
    }

private:
    /// Not of one channel, which would read all gradients for every tap, nor in warps, whose registers hold the sums.
    bool sums_by_tap() const { return out_block > 1 && warp == 1; }

    Func padded, part{"part"}, acc{"acc"};
    RVar taps, rows;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradInputF32F32, grad_input_f32f32)
