// Forward of depthwise layers in floating point.
#include "forward.h"
#include "side_by_side.h"

namespace qconv {
namespace {

using namespace Halide;

class ForwardDepthwise
    : public SideBySideGenerator<ForwardGenerator<ForwardDepthwise, Buffer<float, 3>, Buffer<float, 2>>> {
public:
    void generate() {
        describe_buffers({group_block});
        padded = float_input();
        build_sums(padded, constant_or(groups, x.dim(2).extent()), w,
                   [&](const Expr &tap) { return w * stride() + tap * dilation(); });
        y(w, o, g, n) = offset(o, g) + turned_sum(w);
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call(weight_estimates());
        schedules::DepthwiseStages stages;
        fill(stages, {padded}, float_input_cases());
        fill_sums(stages);
        schedules::apply(stages, context());
    }

private:
    Func padded;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ForwardDepthwise, forward_depthwise)
