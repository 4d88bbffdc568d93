// grad_input of depthwise layers, with unit stride: as forward_depthwise, with the gradient in place of the input.
#include "grad_input.h"
#include "side_by_side.h"

namespace qconv {
namespace {

using namespace Halide;

class GradInputDepthwise : public SideBySideGenerator<GradInputGenerator<GradInputDepthwise, Buffer<float, 3>>> {
public:
    void generate() {
        describe_buffers();
        weight.dim(0).set_extent(int(group_block));
        padded = padded_gradient();
        build_sums(padded, constant_or(groups, grad_output.dim(2).extent()), column,
                   [&](const Expr &tap) { return reach(column, tap); });
        sums(column, phase, c, g, n) = turned_sum(column);
        define_result(sums);
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call(weight_estimates());
        schedules::GradInputDepthwiseStages stages;
        fill(stages, padded);
        fill_sums(stages);
        schedules::apply(stages, context());
    }

private:
    Func padded, sums{"sums"};
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradInputDepthwise, grad_input_depthwise)
