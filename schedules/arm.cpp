// Schedules for AArch64 and ARM32 with NEON.
#include "schedules/cpu.h"

namespace qconv::schedules {

using namespace Halide;

namespace {

class Arm : public Cpu {
protected:
    /// One vector of weights: multiplications then take a lane of it (fmla, sdot), or duplicate it, in place of a
    /// broadcasting load for each.
    void stage_weights(const ForwardStages &s, const LoopLevel &level) const override {
        if (s.out_block == 1) return;
        Func weights = s.weights;
        weights.compute_at(level).align_bounds(s.o, s.out_block);
        if (!s.has_dot) {
            weights.vectorize(s.o, s.out_block);
            return;
        }
        Var fused("fused");
        weights.bound_extent(s.element, s.dot_elements)
            .fuse(s.element, s.o, fused)
            .vectorize(fused, s.dot_elements * s.out_block);
    }
};

} // namespace

const Schedules &arm() {
    static const Arm schedules;
    return schedules;
}

} // namespace qconv::schedules
