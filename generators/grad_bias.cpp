// The gradient of a bias on a device: the sum of grad_output over positions and batch, channel by channel (layout.h).
#include "Halide.h"
#include "schedules/schedule.h"

namespace qconv {
namespace {

using namespace Halide;

/// The inputs are those of GradBiasArg, in its order.
class GradBias : public Generator<GradBias> {
public:
    GeneratorParam<int> width_block{"width_block", 256, 16, 1024};
    Input<Buffer<float, 3>> grad_output{"grad_output"};
    Output<Buffer<float, 1>> grad_bias{"grad_bias"};

    void generate() {
        for (int d = 0; d < 3; d++)
            grad_output.dim(d).set_min(0);
        grad_bias.dim(0).set_min(0);
        // The positions of all samples in one row, so that short widths keep every lane busy.
        const int lanes = width_block, joined = lanes / 16;
        const Expr width = grad_output.dim(0).extent(), batch = grad_output.dim(2).extent(), count = width * batch;
        RDom row(0, (count + lanes - 1) / lanes, "row");
        const Expr at = cast<uint32_t>(row * lanes + lane), unsigned_width = cast<uint32_t>(max(width, 1));
        const Expr position = clamp(cast<int32_t>(at % unsigned_width), 0, width - 1);
        const Expr sample = clamp(cast<int32_t>(at / unsigned_width), 0, batch - 1);
        part(lane, o) = 0.0f;
        part(lane, o) += select(at < cast<uint32_t>(count), grad_output(position, o, sample), 0.0f);
        // Then a tree: few terms follow one another.
        RDom first(0, lanes / joined, "first"), second(0, joined, "second");
        joint(lane, o) = 0.0f;
        joint(lane, o) += part(lane + first * joined, o);
        total(o) = 0.0f;
        total(o) += joint(second, o);
        grad_bias(o) = total(o);
        rows = row.x;
    }

    void schedule() {
        if (using_autoscheduler()) return;
        schedules::GradBiasStages stages;
        stages.grad_bias = grad_bias, stages.o = o;
        stages.part = part, stages.lane = lane, stages.rows = rows;
        stages.joint = joint, stages.total = total;
        schedules::apply(stages, context());
    }

private:
    Var lane{"lane"}, o{"o"};
    Func part{"part"}, joint{"joint"}, total{"total"};
    RVar rows;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradBias, grad_bias)
