// Schedules for CPUs: vectors run along positions, or along the words of one position where the stages say so; tasks
// run on threads. Architectures derive from it where they want another inner loop.
#pragma once

#include "schedules/schedule.h"

namespace qconv::schedules {

class Cpu : public Schedules {
public:
    void apply(const ForwardStages &s, const Halide::Target &target) const override;
    void apply(const LookupStages &s, const Halide::Target &target) const override;
    void apply(const GradInputSumStages &s, const Halide::Target &target) const override;
    void apply(const GradInputLookupStages &s, const Halide::Target &target) const override;
    void apply(const GradWeightLookupStages &s, const Halide::Target &target) const override;
    void apply(const GradWeightSumStages &s, const Halide::Target &target) const override;
    void apply(const GradWeightRowStages &s, const Halide::Target &target) const override;
    void apply(const StateStages &s, const Halide::Target &target) const override;

protected:
    /// Where the weights of one step of the inner loop, at `level`, are loaded: by the loop itself here, since x86
    /// broadcasts a weight from memory as an instruction's operand.
    virtual void stage_weights(const ForwardStages &, const Halide::LoopLevel &) const {}
};

} // namespace qconv::schedules
