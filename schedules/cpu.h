// Schedules for CPUs: vectors run along positions, or along the words of one position where the stages say so; tasks
// run on threads. Architectures derive from it where they want another inner loop.
#pragma once

#include <vector>

#include "schedules/schedule.h"

namespace qconv::schedules {

class Cpu : public Schedules {
public:
    using Schedules::apply;
    void apply(const ForwardStages &s, const Halide::Target &target) const override;
    void apply(const LookupStages &s, const Halide::Target &target) const override;
    void apply(const DepthwiseStages &s, const Halide::Target &target) const override;
    void apply(const GradInputSumStages &s, const Halide::Target &target) const override;
    void apply(const GradInputLookupStages &s, const Halide::Target &target) const override;
    void apply(const GradInputDepthwiseStages &s, const Halide::Target &target) const override;
    void apply(const GradWeightLookupStages &s, const Halide::Target &target) const override;
    void apply(const GradWeightSumStages &s, const Halide::Target &target) const override;
    void apply(const GradWeightRowStages &s, const Halide::Target &target) const override;
    void apply(const StateStages &s, const Halide::Target &target) const override;
    void apply(const BitsStages &s, const Halide::Target &target) const override;
    void apply(const ToBitsStages &s, const Halide::Target &target) const override;

protected:
    /// Where the weights of one step of the inner loop, at `level`, are loaded: by the loop itself here, since x86
    /// broadcasts a weight from memory as an instruction's operand.
    virtual void stage_weights(const ForwardStages &, const Halide::LoopLevel &) const {}

    /// Whether the words that a strip's positions meet are laid out one after the other before they are multiplied:
    /// one copy for all output channels.
    virtual bool lays_out_patches(const Halide::Target &) const { return false; }

private:
    /// The sums of one block of output channels and one strip, in registers.
    void schedule_sums(const ForwardStages &s, const Halide::LoopLevel &level, const Halide::Target &target) const;
    void schedule_byte_sums(const ForwardStages &s) const;
};

/// How many groups, one after the other, make a task where a group has one channel: a row is too short work for one.
constexpr int groups_of_task = 8;

/// Values prepared once per call.
void schedule_values(const InputValues &prepared);

/// The stages of `kinds`, for each vector of `lanes` that `consumer`, whose Var is `at`, computes.
void schedule_kinds(const std::vector<KindStage> &kinds, const Halide::Func &consumer, const Halide::Var &at,
                    int lanes);

/// Tables of positions p: all entries of one vector of positions together, so that they share the half sums.
void build_tables(Halide::Func table, const std::vector<Halide::Func> &halves, const Halide::LoopLevel &level,
                  const Halide::Var &p, const Halide::Var &entry, int entries, int lanes);

/// Squares of `side` rows and columns turned in registers, at `level`, by the steps of a Turn.
void turn_squares(const std::vector<Halide::Func> &steps, const Halide::Var &pair, const Halide::Var &along, int side,
                  const Halide::LoopLevel &level, int lanes);

/// Sums side by side: the input of a task at `task`, and at `strip`, of positions w, the sums in registers.
void schedule_side_by_side(const SideBySide &s, const Halide::Var &p, const Halide::Var &w, int width_block,
                           const Halide::LoopLevel &task, const Halide::LoopLevel &strip, int lanes);

} // namespace qconv::schedules
