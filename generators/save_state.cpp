// What backward needs of the input of a layer whose quantizer has levels and a derivative of 0 or 1: the levels and
// where gradients pass, bit by bit (layout.h).
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
    Input<float> levels{"levels"};
    Input<float> threshold{"threshold"};
    Output<Buffer<uint32_t, 3>> state{"state"};

    void generate() {
        for (int d = 0; d < 2; d++)
            x.dim(d).set_min(0);
        for (int d = 0; d < 3; d++)
            state.dim(d).set_min(0);

        // packed(i, ...): what all planes have of position i of a word.
        const Expr position = word * 32 + i, mask_plane = state.dim(1).extent() - 1;
        const Expr v = x(clamp(likely(position), 0, x.dim(0).extent() - 1), row);
        const Expr unlimited = strict_float(threshold != threshold); // NaN: no threshold
        const Expr within = (unlimited || quantizers::at_most(abs(v), threshold)) &&
                            (quantizer != QCONV_STEHEAVISIDE || quantizers::at_most(abs(v), 1.0f));
        const Expr bits =
            quantizers::level(quantizer, v, levels) | (cast<uint32_t>(within) << cast<uint32_t>(mask_plane));
        packed(i, word, row) = select(likely(position < x.dim(0).extent()), bits, cast<uint32_t>(0));

        RDom bit(0, 32, "bit");
        joined(word, plane, row) = cast<uint32_t>(0);
        // The bits of a word are disjoint: their sum joins them.
        joined(word, plane, row) += ((packed(bit, word, row) >> cast<uint32_t>(plane)) & 1u) << cast<uint32_t>(bit);
        bit_of_word = bit.x;
        state(word, plane, row) = joined(word, plane, row);
    }

    void schedule() {
        if (using_autoscheduler()) return;
        schedules::StateStages stages;
        stages.state = state, stages.word = word, stages.plane = plane, stages.row = row;
        stages.packed = packed, stages.i = i;
        stages.joined = joined, stages.bits = bit_of_word;
        stages.cases = {quantizer == QCONV_SIGN, quantizer == QCONV_STEHEAVISIDE, quantizer == QCONV_INPUTDOREFA};
        schedules::apply(stages, context());
    }

private:
    Var word{"word"}, plane{"plane"}, row{"row"}, i{"i"};
    Func packed{"packed"}, joined{"joined"};
    RVar bit_of_word;
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::SaveState, save_state)
