// Packs the signs of a tensor after a threshold on each channel. ToBitsArg in layout.h documents the inputs.
#include "Halide.h"
#include "schedules/schedule.h"

namespace qconv {
namespace {

using namespace Halide;

class ToBits : public Generator<ToBits> {
public:
    Input<Buffer<float, 3>> x{"x"};
    Input<Buffer<float, 2>> rule{"rule"};
    Input<Buffer<uint32_t, 1>> flip{"flip"};
    Output<Buffer<uint32_t, 3>> y{"y"};

    void generate() {
        for (int d = 0; d < 3; d++)
            x.dim(d).set_min(0), y.dim(d).set_min(0);
        for (int d = 0; d < 2; d++)
            rule.dim(d).set_min(0);
        flip.dim(0).set_min(0);
        // Eight channels a pass: more rows of x at once would compete for the same cache sets.
        constexpr int pass_channels = 8;
        RDom pass(0, 32 / pass_channels, "pass");
        Expr bits = cast<uint32_t>(0);
        for (int i = 0; i < pass_channels; i++) {
            const Expr bit = pass * pass_channels + i, channel = row * 32 + bit;
            const Expr v = x(p, min(channel, x.dim(1).extent() - 1), n) * rule(0, channel);
            bits = bits | select(strict_float(v < rule(1, channel)), cast<uint32_t>(1) << cast<uint32_t>(bit),
                                 cast<uint32_t>(0));
        }
        words(p, row, n) = cast<uint32_t>(0);
        words(p, row, n) = words(p, row, n) | bits;
        y(p, row, n) = words(p, row, n) ^ flip(row);
    }

    void schedule() {
        if (using_autoscheduler()) return;
        schedules::ToBitsStages stages;
        stages.y = y, stages.words = words;
        stages.p = p, stages.row = row, stages.n = n;
        schedules::apply(stages, context());
    }

private:
    Var p{"p"}, row{"row"}, n{"n"};
    Func words{"words"};
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ToBits, to_bits)
