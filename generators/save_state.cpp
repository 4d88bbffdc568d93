// What backward needs of the input of a layer with a sign-type input quantizer: two bits an element (layout.h).
#include "Halide.h"
#include "qconv/qconv.h"
#include "quantizers.h"
#include "schedules/schedule.h"

namespace qconv {
namespace {

using namespace Halide;

/// The inputs are those of SaveStateArg, in its order.
class SaveState : public Generator<SaveState> {
public:
    Input<Buffer<float, 2>> x{"x"};
    Input<int32_t> quantizer{"quantizer"};
    Input<float> threshold{"threshold"};
    Output<Buffer<uint32_t, 3>> state{"state"};

    void generate() {
        for (int d = 0; d < 2; d++)
            x.dim(d).set_min(0);
        for (int d = 0; d < 3; d++)
            state.dim(d).set_min(0);
        state.dim(1).set_extent(2);

        RDom bit(0, 32, "bit");
        const Expr position = word * 32 + bit;
        const Expr v = x(clamp(likely(position), 0, x.dim(0).extent() - 1), row);
        const Expr steheaviside = quantizer == QCONV_STEHEAVISIDE;
        // Not v >= 0: NaN gives +1, as bitorch has it.
        const Expr positive = select(steheaviside, strict_float(v > 0.0f), !strict_float(v < 0.0f));
        const Expr unlimited = strict_float(threshold != threshold); // NaN: no threshold
        const Expr within = (unlimited || quantizers::at_most(abs(v), threshold)) &&
                            (!steheaviside || quantizers::at_most(abs(v), 1.0f));
        const Expr known = likely(position < x.dim(0).extent());
        const Expr set = known && select(plane == 0, positive, within);
        joined(word, plane, row) = cast<uint32_t>(0);
        // The bits of a word are disjoint: their sum joins them.
        joined(word, plane, row) += select(set, cast<uint32_t>(1) << cast<uint32_t>(bit), cast<uint32_t>(0));
        bits = bit.x;
        state(word, plane, row) = joined(word, plane, row);
    }

    void schedule() {
        if (using_autoscheduler()) return;
        schedules::StateStages stages;
        stages.state = state, stages.word = word, stages.plane = plane, stages.row = row;
        stages.joined = joined, stages.bits = bits;
        stages.cases = {quantizer == QCONV_SIGN};
        schedules::apply(stages, context());
    }

private:
    Var word{"word"}, plane{"plane"}, row{"row"};
    Func joined{"joined"};
    RVar bits;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::SaveState, save_state)
