// Schedules for GPUs, CUDA and OpenCL alike. A warp's threads run along output positions, so that they load and store
// side by side, and each thread sums a tile of positions and channels in registers; grad_weight's sum tiles of weights,
// or of few weights every so many positions.
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
constexpr int channel_threads = 8; // of a block that sums a tile of outputs and input channels

class Gpu : public Schedules {
public:
    using Schedules::apply;
    void apply(const ForwardStages &s, const Target &target) const override;
    void apply(const LookupStages &s, const Target &target) const override;
    void apply(const GradInputSumStages &s, const Target &target) const override;
    void apply(const GradInputLookupStages &s, const Target &target) const override;
    void apply(const GradWeightLookupStages &s, const Target &target) const override;
    void apply(const GradWeightPieceStages &s, const Target &target) const override;
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
    // By one: else Halide takes what is computed in a block to span these loops whole.
    for (Var &v : vars) {
        const Var one, outer;
        stage.split(v, outer, one, 1);
        v = outer;
    }
    Var all = vars.front();
    for (size_t i = 1; i < vars.size(); i++) {
        stage.fuse(all, vars[i], block);
        all = block;
    }
    return all;
}

/// A kernel of its own, once a call: threads along `p`. `element` is unrolled where the stage has it. Returns the loop
/// over threads.
Var stage_per_call(Func stage, const Var &p, const Var &element) {
    Func result = stage;
    Var tile("tile"), tx("tx");
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
    return tx;
}

/// A kernel of its own, once a call, that lays the elements of a column side by side: threads along `p` load from a few
/// rows each, and store what fills a sector of memory.
void stage_by_columns(Func stage, const Var &p, const Var &row) {
    constexpr int rows = 8;
    Func result = stage.in();
    Var tile("tile"), tx("tx"), block("block"), each("each");
    std::vector<Var> outer{tile, block}, storage{row};
    for (const Var &v : result.args()) {
        if (v.name() != p.name() && v.name() != row.name()) outer.push_back(v);
        if (v.name() != row.name()) storage.push_back(v);
    }
    result.compute_root().reorder_storage(storage).align_bounds(row, rows);
    result.split(p, tile, tx, stage_threads, TailStrategy::GuardWithIf).split(row, block, each, rows);
    std::vector<VarOrRVar> order{each, tx};
    order.insert(order.end(), outer.begin(), outer.end());
    result.reorder(order).vectorize(each, vector_lanes).unroll(each);
    result.gpu_blocks(fuse_all(result, outer)).gpu_threads(tx);
    stage.compute_at(result, tx).bound_extent(row, rows).unroll(row);
}

/// One value along each of these, said so that the Func is known to fit registers or shared memory.
void one_each(Func f, const std::vector<Var> &vars) {
    for (const Var &v : vars)
        f.bound_extent(v, 1);
}

/// In the memory that the threads of a block share: they take positions in turn. `element` is unrolled where the stage
/// has it. Returns the loop over threads.
Var stage_per_block(Func stage, const Func &result, const Var &block, const Var &element, int rows_of_threads) {
    Func shared = stage;
    // Reductions stay in the registers of the thread that needs them.
    if (stage.has_update_definition()) shared = stage.in();
    const std::vector<Var> args = shared.args();
    const bool elements = args.front().name() == element.name();
    const Var &at = args[elements ? 1 : 0];
    Var turn, tx, ty;
    shared.compute_at(result, block).store_in(MemoryType::GPUShared);
    shared.split(at, turn, tx, warp_size * rows_of_threads, TailStrategy::GuardWithIf);
    std::vector<VarOrRVar> order{tx};
    if (rows_of_threads > 1) {
        shared.split(tx, ty, tx, warp_size);
        order.push_back(ty);
    }
    order.push_back(turn);
    for (size_t i = elements ? 2 : 1; i < args.size(); i++)
        order.push_back(args[i]);
    if (elements) order.insert(order.begin(), element);
    shared.reorder(order);
    if (elements) shared.unroll(element);
    if (rows_of_threads > 1) {
        shared.gpu_threads(tx, ty);
    } else {
        shared.gpu_threads(tx);
    }
    if (stage.has_update_definition()) stage.compute_at(shared, tx);
    return tx;
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

    // Returns the loop over threads.
    const auto place = [&](const Func &stage, const Var &p) {
        if (s.tile_input) return stage_per_block(stage, y, block, s.element, channels.threads);
        return stage_per_call(stage, p, s.element);
    };
    for (const Func &stage : s.input)
        place(stage, s.p);
    if (s.window.defined()) {
        Func window_acc = s.window_acc;
        window_acc.compute_at(s.window, place(s.window, s.w));
        dot_product(window_acc.update(), s.dot, {s.taps, s.rows, s.w}, target);
    }

    acc.compute_at(y, s.thread).bound_extent(s.w, strips).bound_extent(s.o, channels.each).bound_extent(s.in_warp, 1);
    if (s.tile_input) acc.bound_extent(s.input_tile, 1);
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
        Stage update = acc.update(int(u));
        RVar step("step"), taps = sums[u].taps;
        std::vector<VarOrRVar> reductions{taps, sums[u].rows, s.in_warp};
        if (s.more_sums.empty() && channels.each > 1) { // sums that wait for no others: two taps in flight
            update.split(taps, taps, step, 2).unroll(step);
            reductions.insert(reductions.begin(), step);
        }
        sum_in_registers(update, s.w, s.o, channels.each, reductions, vectorize);
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

void Gpu::apply(const GradWeightPieceStages &s, const Target &) const {
    Func result = s.grad_weight, acc = s.acc, part = s.part, total = s.total, pieces = total.in();
    Var ob("ob"), tx("tx"), ov("ov"), cb("cb"), ci("ci"), ty("ty"), cv("cv"), kb("kb"), kv("kv");
    result.split(s.o, ob, tx, warp_size, TailStrategy::GuardWithIf).reorder(tx, s.k, s.c, ob, s.g);
    result.gpu_blocks(fuse_all(result, {s.k, s.c, ob, s.g})).gpu_threads(tx);
    acc.compute_at(result, tx);
    one_each(acc, {s.o, s.k, s.c, s.g});

    pieces.compute_root();
    if (s.warp > 1) {
        // A block for each output, channel and tap_block taps: its threads sum every so many positions.
        Func lanes = part.in();
        pieces.align_bounds(s.k, s.tap_block).split(s.k, kb, kv, s.tap_block).reorder(kv, kb, s.c, s.o, s.g, s.piece);
        const Var block = fuse_all(pieces, {kb, s.c, s.o, s.g});
        pieces.gpu_blocks(block, s.piece).gpu_threads(kv);
        total.compute_at(pieces, kv);
        for (const Func &f : {total, part, lanes})
            one_each(f, {s.o, s.c, s.g, s.piece});
        lanes.compute_at(pieces, block).gpu_threads(s.lane).reorder(s.k, s.lane).unroll(s.k);
        part.compute_at(lanes, s.lane).bound_extent(s.k, s.tap_block).unroll(s.k);
        part.update().reorder({s.k, s.lane, s.o, s.c, s.positions, s.blocks}).unroll(s.k);
        stage_per_call(s.rows, s.w, Var("none"));
        stage_per_call(s.padded, s.p, Var("none"));
        return;
    }
    // A block for each tap and a tile of outputs and channels, of which a thread sums four by `each`.
    const int each = s.channel_block / channel_threads;
    if (each < 1 || s.channel_block % channel_threads != 0 || s.out_block % vector_lanes != 0)
        throw std::invalid_argument("out_block must be whole fours and channel_block whole eights");
    pieces.align_bounds(s.o, s.out_block).align_bounds(s.c, s.channel_block);
    pieces.split(s.o, ob, tx, s.out_block).split(tx, tx, ov, vector_lanes);
    pieces.split(s.c, cb, ci, s.channel_block).split(ci, ty, cv, each);
    pieces.reorder({ov, cv, tx, ty, s.k, ob, cb, s.g, s.piece}).vectorize(ov).unroll(cv);
    pieces.gpu_blocks(fuse_all(pieces, {s.k, ob, cb, s.g}), s.piece).gpu_threads(tx, ty);
    for (Func f : {part, total}) {
        f.compute_at(pieces, tx).bound_extent(s.o, vector_lanes).bound_extent(s.c, each);
        f.align_bounds(s.o, vector_lanes).align_bounds(s.c, each);
        f.vectorize(s.o).unroll(s.c);
    }
    total.update().unroll(s.lanes).vectorize(s.o).unroll(s.c);
    RVar step("step");
    part.update().split(s.positions, s.positions, step, 4).unroll(step);
    part.update().reorder({s.o, s.c, s.k, s.lane, step, s.positions, s.blocks}).vectorize(s.o).unroll(s.c);
    // Of the channels too, several in one load.
    Func taken = s.taken;
    taken.compute_at(part, step).bound_extent(s.c, each);
    taken.vectorize(s.c, std::min(each, vector_lanes)).unroll(s.c);
    stage_by_columns(s.rows, s.w, s.o);
    stage_by_columns(s.padded, s.p, s.c);
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
