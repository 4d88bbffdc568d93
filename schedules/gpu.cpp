// Schedules for GPUs, CUDA and OpenCL alike. A warp's threads run along output positions (grad_weight: along output
// channels), so that they load and store side by side; each thread sums a tile of positions and channels in registers.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "schedules/schedule.h"

namespace qconv::schedules {

using namespace Halide;

namespace {

constexpr int warp_size = 32;
constexpr int thread_channels = 8; // of the result, computed by one thread
constexpr int vector_lanes = 4;    // words of one 128-bit load
constexpr int stage_threads = 128; // of a block that computes an input stage

class Gpu : public Schedules {
public:
    using Schedules::apply;
    void apply(const ForwardStages &s, const Target &target) const override;
    void apply(const LookupStages &s, const Target &target) const override;
    void apply(const GradInputSumStages &s, const Target &target) const override;
    void apply(const GradInputLookupStages &s, const Target &target) const override;
    void apply(const GradWeightLookupStages &s, const Target &target) const override;
    void apply(const GradWeightSumStages &s, const Target &target) const override;
    void apply(const GradWeightRowStages &s, const Target &target) const override;
    void apply(const StateStages &s, const Target &target) const override;
    void apply(const GradBiasStages &s, const Target &target) const override;
};

bool is_argument(const Func &f, const Var &v) {
    const std::vector<Var> args = f.args();
    return std::any_of(args.begin(), args.end(), [&](const Var &a) { return a.name() == v.name(); });
}

/// All of `vars` as one loop over blocks: the first dimension of a grid is the one without a low limit.
Var fuse_all(Stage stage, std::vector<Var> vars) {
    const Var block("block");
    Var all = vars.front();
    for (size_t i = 1; i < vars.size(); i++) {
        stage.fuse(all, vars[i], block);
        all = block;
    }
    return all;
}

/// The loop over threads of stage_per_call().
Var thread_of_stage() {
    return Var("stage_thread");
}

/// A kernel of its own, once a call: threads along `p`. `element` is unrolled where the stage has it.
void stage_per_call(Func stage, const Var &p, const Var &element) {
    Func result = stage;
    Var tile("tile"), tx = thread_of_stage();
    // Reductions stay in the registers of the thread that needs them.
    if (stage.has_update_definition()) result = stage.in();
    std::vector<Var> outer{tile};
    for (const Var &v : result.args()) {
        if (v.name() != p.name() && v.name() != element.name()) outer.push_back(v);
    }
    result.compute_root().split(p, tile, tx, stage_threads, TailStrategy::GuardWithIf);
    std::vector<VarOrRVar> order{tx};
    if (is_argument(result, element)) order.insert(order.begin(), element);
    order.insert(order.end(), outer.begin(), outer.end());
    result.reorder(order);
    if (is_argument(result, element)) result.unroll(element);
    result.gpu_blocks(fuse_all(result, outer)).gpu_threads(tx);
    if (stage.has_update_definition()) stage.compute_at(result, tx);
}

/// The channels of the result in a block: threads along them, and the channels that each one sums.
struct Channels {
    int threads = 1, each;
    Var blocks{"blocks"}, ty{"ty"}, own{"own"};

    explicit Channels(int block) : each(block) {
        if (block > thread_channels) threads = block / thread_channels, each = thread_channels;
        // One thread with several channels: Halide bounds its sums too loosely to compile.
        if (threads == 1 && each > 1) throw std::invalid_argument("out_block must be 1, or 16 or more");
    }
    /// Splits the loop over channels into blocks, ty (of one thread it has none) and own.
    void split(Stage stage, const Var &channel) const {
        stage.split(channel, blocks, own, threads * each, TailStrategy::GuardWithIf);
        if (threads > 1) stage.split(own, ty, own, each);
    }
    /// The loops inside a block, from the inside: strip, own, thread, ty.
    std::vector<VarOrRVar> order(const RVar &strip, const RVar &thread) const {
        std::vector<VarOrRVar> list{strip, own, thread};
        if (threads > 1) list.push_back(ty);
        return list;
    }
    void map_threads(Stage stage, const RVar &thread) const {
        if (threads > 1) {
            stage.gpu_threads(thread, ty);
        } else {
            stage.gpu_threads(thread);
        }
    }
};

std::vector<VarOrRVar> joined(std::vector<VarOrRVar> list, const std::vector<VarOrRVar> &more) {
    list.insert(list.end(), more.begin(), more.end());
    return list;
}

/// Sums of a tile of positions and channels, in one thread's registers: `w` counts warps of positions.
void sum_in_registers(Stage stage, const Var &w, const Var &o, int each, const std::vector<VarOrRVar> &reductions,
                      bool vectorize) {
    stage.reorder(joined({o, w}, reductions));
    // Four channels' weights in one load.
    if (vectorize && each % vector_lanes == 0) stage.vectorize(o, vector_lanes);
    stage.unroll(w).unroll(o);
}

/// The elements of a word at once, inside the other loops: one instruction on CUDA; OpenCL has none.
void dot_product(Stage update, const RVar &dot, const std::vector<VarOrRVar> &others, const Target &target) {
    update.reorder(joined({dot}, others));
    if (target.has_feature(Target::CUDA)) {
        update.atomic().vectorize(dot);
    } else {
        update.unroll(dot);
    }
}

} // namespace

void Gpu::apply(const ForwardStages &s, const Target &target) const {
    if (s.warp != warp_size) throw std::invalid_argument("a GPU schedule needs warp=" + std::to_string(warp_size));
    if (s.counts.defined()) throw std::invalid_argument("a GPU has no use for byte counters: count_limit must be 0");
    Func y = s.y, acc = s.acc;
    const Channels channels(s.out_block);
    const int strips = s.width_block / s.warp;
    y.gpu_blocks(s.n); // writes nothing, but not on the host
    Stage result = y.update();
    channels.split(result, s.o);
    result.reorder(joined(channels.order(s.strip, s.thread), {channels.blocks, s.g, s.n, s.tile}))
        .unroll(s.strip)
        .unroll(channels.own);
    const Var block = fuse_all(result, {channels.blocks, s.g, s.n});
    // Each position is one thread's: Halide cannot tell, for it does not multiply out where they lie.
    result.allow_race_conditions().gpu_blocks(block, s.tile);
    channels.map_threads(result, s.thread);

    for (const Func &stage : s.input)
        stage_per_call(stage, s.p, s.element);
    if (s.window.defined()) {
        Func window = s.window, window_acc = s.window_acc;
        stage_per_call(window, s.w, s.element);
        window_acc.compute_at(window, thread_of_stage());
        dot_product(window_acc.update(), s.dot, {s.taps, s.rows, s.w}, target);
    }

    acc.compute_at(y, s.thread).bound_extent(s.w, strips).bound_extent(s.o, channels.each).bound_extent(s.in_warp, 1);
    acc.align_bounds(s.o, channels.each).reorder_storage(s.o, s.w, s.in_warp);
    const bool vectorize = !s.has_dot;
    sum_in_registers(acc, s.w, s.o, channels.each, {s.in_warp}, vectorize);
    std::vector<Sums> sums{{s.taps, s.rows}};
    sums.insert(sums.end(), s.more_sums.begin(), s.more_sums.end());
    for (size_t u = 0; u < sums.size(); u++) {
        if (s.has_dot) {
            Stage update = acc.update();
            dot_product(update, s.dot, {s.o, s.w, s.taps, s.rows, s.in_warp}, target);
            update.unroll(s.w).unroll(s.o);
            continue;
        }
        sum_in_registers(acc.update(int(u)), s.w, s.o, channels.each, {sums[u].taps, sums[u].rows, s.in_warp},
                         vectorize);
    }
}

void Gpu::apply(const GradInputSumStages &s, const Target &) const {
    if (s.warp != warp_size) throw std::invalid_argument("a GPU schedule needs warp=" + std::to_string(warp_size));
    Func result = s.grad_input, acc = s.acc;
    const Channels channels(s.channel_block);
    const int strips = s.width_block / s.warp;
    result.gpu_blocks(s.n); // writes nothing, but not on the host
    Stage stage = result.update();
    channels.split(stage, s.c);
    stage.reorder(joined(channels.order(s.strip, s.thread), {channels.blocks, s.g, s.n, s.tile, s.result_phase}))
        .unroll(s.strip)
        .unroll(channels.own);
    // As in the forward pass.
    stage.allow_race_conditions().gpu_blocks(fuse_all(stage, {channels.blocks, s.g, s.n}), s.tile, s.result_phase);
    channels.map_threads(stage, s.thread);
    acc.compute_at(result, s.thread);
    acc.bound_extent(s.column, strips).bound_extent(s.c, channels.each).bound_extent(s.in_warp, 1);
    acc.bound_extent(s.phase, 1).align_bounds(s.c, channels.each).reorder_storage(s.c, s.column, s.in_warp);
    sum_in_registers(acc, s.column, s.c, channels.each, {s.in_warp}, true);
    sum_in_registers(acc.update(), s.column, s.c, channels.each, {s.taps, s.rows, s.in_warp}, true);
    stage_per_call(s.padded, s.p, Var("none"));
}

void Gpu::apply(const GradWeightSumStages &s, const Target &) const {
    Func result = s.grad_weight, acc = s.acc, part = s.part;
    constexpr int channel_threads = 4;
    Var ob("ob"), tx("tx"), cb("cb"), ci("ci"), ty("ty"), cv("cv");
    result.split(s.o, ob, tx, warp_size, TailStrategy::GuardWithIf)
        .split(s.c, cb, ci, channel_threads * s.channel_block, TailStrategy::GuardWithIf)
        .split(ci, ty, cv, s.channel_block)
        .reorder(cv, tx, ty, s.k, cb, ob, s.g)
        .unroll(cv);
    result.gpu_blocks(fuse_all(result, {s.k, cb, ob, s.g})).gpu_threads(tx, ty);
    acc.compute_at(result, tx).bound_extent(s.c, s.channel_block).unroll(s.c);
    acc.update().reorder({s.c, s.o, s.k, s.tile, s.sample}).unroll(s.c);
    part.compute_at(acc, s.tile).unroll(s.c);
    part.update().reorder(s.c, s.o, s.k, s.positions).unroll(s.c);
    const Var none("none");
    stage_per_call(s.transposed, s.o, none);
    stage_per_call(s.padded, s.p, none);
}

void Gpu::apply(const GradWeightRowStages &s, const Target &) const {
    // A block for each weight: its threads sum every so many positions of a tile, and one of them adds them up.
    Func result = s.grad_weight, acc = s.acc, part = s.part;
    Var one("one");
    result.split(s.k, s.k, one, 1).reorder(one, s.k, s.c, s.o, s.g);
    const Var block = fuse_all(result, {s.k, s.c, s.o, s.g});
    result.gpu_blocks(block).gpu_threads(one);
    acc.compute_at(result, block);
    acc.update().reorder({s.lane, s.tile, s.sample});
    const Var lane = part.args()[0], none("none");
    part.compute_at(acc, s.tile).gpu_threads(lane);
    part.update().reorder(s.vectors, lane).gpu_threads(lane);
    stage_per_call(s.rows, s.w, none);
    stage_per_call(s.padded, s.p, none);
}

void Gpu::apply(const StateStages &s, const Target &) const {
    Func state = s.state, joined = s.joined;
    Var tile("tile"), tx("tx");
    state.split(s.word, tile, tx, warp_size, TailStrategy::GuardWithIf).reorder(tx, tile, s.plane, s.row);
    state.gpu_blocks(fuse_all(state, {tile, s.plane, s.row})).gpu_threads(tx);
    joined.compute_at(state, tx);
    joined.update().unroll(s.bits);
}

void Gpu::apply(const GradBiasStages &s, const Target &) const {
    // A block for each channel. Its threads sum in registers, and leave their sums to fewer threads, and these to one.
    Func result = s.grad_bias, part = s.part, lanes = part.in(), joint = s.joint, total = s.total;
    Var one("one");
    result.split(s.o, s.o, one, 1).gpu_blocks(s.o).gpu_threads(one);
    lanes.compute_at(result, s.o).gpu_threads(s.lane);
    part.compute_at(lanes, s.lane);
    part.update().reorder(s.lane, s.rows);
    joint.compute_at(result, s.o).gpu_threads(s.lane);
    joint.update().gpu_threads(s.lane);
    total.compute_at(result, one);
}

namespace {
[[noreturn]] void no_lookup() {
    throw std::invalid_argument(
        "a GPU multiplies as fast as it looks up: binary weights run on the float kernels, not by table lookup");
}
} // namespace

void Gpu::apply(const LookupStages &, const Target &) const {
    no_lookup();
}
void Gpu::apply(const GradInputLookupStages &, const Target &) const {
    no_lookup();
}
void Gpu::apply(const GradWeightLookupStages &, const Target &) const {
    no_lookup();
}

const Schedules &gpu() {
    static const Gpu schedules;
    return schedules;
}

} // namespace qconv::schedules
