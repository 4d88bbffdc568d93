// Schedules of the backward pass.
#include "schedules/cpu.h"

#include <algorithm>
#include <stdexcept>

namespace qconv::schedules {

using namespace Halide;

namespace {
/// Positions of x that share a word of the state.
constexpr int word_positions = 32;
} // namespace

void schedule_kinds(const std::vector<KindStage> &kinds, const Func &consumer, const Var &at, int lanes) {
    for (const KindStage &kind : kinds) {
        Func stage = kind.stage;
        stage.compute_at(consumer, at).store_in(MemoryType::Stack).vectorize(at, lanes);
        for (const Expr &condition : kind.cases)
            stage.specialize(condition);
    }
}

void schedule_values(const InputValues &prepared) {
    Func values = prepared.values;
    const std::vector<Var> at = values.args();
    const Var i = at[0], c = at[1], g = at[2], n = at[3], row("row");
    values.compute_root()
        .align_bounds(i, word_positions)
        .vectorize(i, word_positions, TailStrategy::RoundUp)
        .fuse(g, n, row)
        .parallel(c) // apart, or Halide would not see that a channel is one
        .parallel(row);
    for (const Expr &condition : prepared.values_cases)
        values.specialize(condition);
    schedule_kinds(prepared.values_kinds, values, i, word_positions);
}

void build_tables(Func table, const std::vector<Func> &halves, const LoopLevel &level, const Var &p, const Var &entry,
                  int entries, int lanes) {
    Var pi("pi");
    table.compute_at(level)
        .bound_extent(entry, entries)
        .split(p, p, pi, lanes, TailStrategy::RoundUp)
        .reorder(pi, entry, p)
        .vectorize(pi)
        .unroll(entry);
    for (Func half : halves)
        half.compute_at(table, p).vectorize(p, lanes, TailStrategy::RoundUp).unroll(entry);
}

void turn_squares(const std::vector<Func> &steps, const Var &pair, const Var &along, int side, const LoopLevel &level,
                  int lanes) {
    int length = side;
    for (Func step : steps) {
        const Var row = step.args()[2];
        step.compute_at(level)
            .bound_extent(pair, 2)
            .bound_extent(along, length)
            .bound_extent(row, side * side / length / 2)
            .store_in(MemoryType::Stack)
            .vectorize(along, std::min(lanes, side))
            .reorder_storage(pair, along, row);
        step.unroll(pair).unroll(along).unroll(row);
        length *= 2;
    }
}

void schedule_side_by_side(const SideBySide &s, const Var &p, const Var &w, int width_block, const LoopLevel &task,
                           const LoopLevel &strip, int lanes) {
    Func across = s.across, acc = s.acc;
    Var square("square"), pi("pi");
    across.compute_at(task)
        .align_bounds(p, s.side)
        .split(p, square, pi, s.side)
        .vectorize(s.lane, lanes)
        .unroll(s.lane)
        .unroll(pi);
    turn_squares(s.turn_input, s.pair, s.along, s.side, {across, square}, lanes);
    acc.compute_at(strip)
        .bound_extent(s.lane, s.side)
        .bound_extent(w, width_block)
        .bound_extent(s.block, 1)
        .vectorize(s.lane, lanes)
        .unroll(s.lane)
        .unroll(w);
    acc.update().reorder(s.lane, w, s.taps).vectorize(s.lane, lanes).unroll(s.lane).unroll(w);
    turn_squares(s.turn_sums, s.pair, s.along, s.side, strip, lanes);
    for (Func step : s.turn_sums)
        step.bound_extent(s.square, width_block / s.side).bound_extent(s.block, 1).unroll(s.square);
}

namespace {

/// Where the stages of grad_input are computed: the input once a group of a task, the sums for some channels of a
/// strip, the factor for one phase of one channel.
struct GradInputLoops {
    LoopLevel task, group, sums, factor;
};

/// With channel_block above 0: loops, from the inside, over the columns of a strip, the channels of a block, phases,
/// strips, blocks, groups, tasks; a block's weights are reused over all strips. With 0: columns, phases, channels,
/// strips, groups, tasks.
GradInputLoops tile_grad_input(const GradInputStages &s, int channel_block, const Target &target) {
    Func result = s.grad_input;
    const int lanes = target.natural_vector_size<float>();
    Var tile("tile"), strip("strip"), wi("wi"), task("task"), block("block"), ci("ci"), group("group");
    RVar rtile("tile"), rstrip("strip"), rwi("wi");
    Stage stage = s.unit_stride ? Stage(result) : Stage(result.update());
    const VarOrRVar column = s.unit_stride ? VarOrRVar(s.column) : VarOrRVar(s.result_column);
    const VarOrRVar phase = s.unit_stride ? VarOrRVar(s.phase) : VarOrRVar(s.result_phase);
    const VarOrRVar at_tile = s.unit_stride ? VarOrRVar(tile) : VarOrRVar(rtile);
    const VarOrRVar at_strip = s.unit_stride ? VarOrRVar(strip) : VarOrRVar(rstrip);
    const VarOrRVar in_strip = s.unit_stride ? VarOrRVar(wi) : VarOrRVar(rwi);
    stage.split(column, at_tile, in_strip, s.tile_width, TailStrategy::GuardWithIf)
        .split(in_strip, at_strip, in_strip, s.width_block, TailStrategy::GuardWithIf);

    std::vector<VarOrRVar> order{in_strip};
    if (channel_block > 0) {
        stage.split(s.c, block, ci, channel_block, TailStrategy::GuardWithIf);
        order.insert(order.end(), {ci, phase, at_strip, block});
    } else {
        order.insert(order.end(), {phase, s.c, at_strip});
    }
    const bool several_groups = channel_block == 1;
    if (several_groups) {
        stage.split(s.g, s.g, group, groups_of_task, TailStrategy::GuardWithIf);
        order.emplace_back(group);
    }
    order.insert(order.end(), {at_tile, s.g, s.n});
    stage.reorder(order).vectorize(in_strip, lanes, TailStrategy::GuardWithIf);
    const auto level = [&](const VarOrRVar &at) {
        return at.is_rvar ? LoopLevel(result, at.rvar) : LoopLevel(result, at.var);
    };
    const LoopLevel sums = level(channel_block > 0 ? phase : at_strip);
    const LoopLevel factor = level(channel_block > 0 ? VarOrRVar(ci) : phase);
    LoopLevel at_task;
    if (s.unit_stride) {
        stage.fuse(tile, s.g, task).fuse(task, s.n, task).parallel(task);
        at_task = LoopLevel(result, task);
    } else {
        stage.fuse(s.g, s.n, task).parallel(rtile).parallel(task);
        at_task = LoopLevel(result, rtile);
    }
    return {at_task, several_groups ? LoopLevel(result, group) : at_task, sums, factor};
}

void schedule_grad_input(const GradInputStages &s, const GradInputLoops &loops, const Target &target) {
    const int lanes = target.natural_vector_size<float>();
    Func padded = s.padded, passes = s.passes, factor = s.factor;
    padded.compute_at(loops.group).hoist_storage(loops.task).vectorize(s.p, lanes, TailStrategy::RoundUp);
    if (s.unit_stride) {
        passes.compute_at(loops.factor)
            .align_bounds(s.i, 32)
            .bound_storage(s.i, (s.width_block / 32 + 2) * 32)
            .store_in(MemoryType::Stack)
            .vectorize(s.i, 32, TailStrategy::RoundUp);
        for (const Expr &condition : s.passes_cases)
            passes.specialize(condition);
    }
    factor.compute_at(loops.factor)
        .bound_extent(s.column, s.width_block)
        .bound_extent(s.phase, 1)
        .store_in(MemoryType::Stack)
        .vectorize(s.column, lanes);
    for (const Expr &condition : s.factor_cases)
        factor.specialize(condition);
    schedule_kinds(s.factor_kinds, factor, s.column, lanes);
}

} // namespace

void Cpu::apply(const GradInputSumStages &s, const Target &target) const {
    const GradInputLoops loops = tile_grad_input(s, s.channel_block, target);
    schedule_grad_input(s, loops, target);
    const int lanes = target.natural_vector_size<float>();
    Func acc = s.acc;
    acc.compute_at(loops.sums)
        .bound_extent(s.column, s.width_block)
        .bound_extent(s.c, s.channel_block)
        .bound_extent(s.phase, 1)
        .align_bounds(s.c, s.channel_block)
        .vectorize(s.column, lanes)
        .unroll(s.column)
        .unroll(s.c);
    acc.update().vectorize(s.column, lanes).unroll(s.column).unroll(s.c);
    if (Func part = s.part; part.defined()) {
        acc.update().reorder(s.column, s.c, s.taps);
        part.compute_at(acc, s.taps).vectorize(s.column, lanes).unroll(s.column).unroll(s.c);
        part.update().reorder(s.column, s.c, s.rows).vectorize(s.column, lanes).unroll(s.column).unroll(s.c);
    } else {
        acc.update().reorder(s.column, s.c, s.taps, s.rows);
    }
}

void Cpu::apply(const GradInputLookupStages &s, const Target &target) const {
    const GradInputLoops loops = tile_grad_input(s, 0, target);
    schedule_grad_input(s, loops, target);
    const int lanes = target.natural_vector_size<float>();
    Func acc = s.acc, part = s.part, table = s.table;
    acc.compute_at(loops.sums).bound_extent(s.column, s.width_block).vectorize(s.column, lanes).unroll(s.column);
    // All channels of one phase after another: its taps are the same few for each.
    acc.update().reorder(s.column, s.c, s.phase, s.chunks).vectorize(s.column, lanes).unroll(s.column);
    part.compute_at(acc, s.c).vectorize(s.column, lanes).unroll(s.column);
    part.update().reorder(s.column, s.tables, s.taps).vectorize(s.column, lanes).unroll(s.column).unroll(s.tables);
    build_tables(table, s.halves, LoopLevel(acc, s.chunks), s.p, s.entry, s.table_entries, lanes);
}

void Cpu::apply(const GradInputDepthwiseStages &s, const Target &target) const {
    if (!s.unit_stride) throw std::invalid_argument("grad_input side by side needs unit_stride");
    const int lanes = target.natural_vector_size<float>();
    Func result = s.grad_input;
    Var tile("tile"), strip("strip"), wi("wi"), gi("gi"), task("task");
    result.split(s.column, tile, wi, s.tile_width, TailStrategy::GuardWithIf)
        .split(wi, strip, wi, s.width_block, TailStrategy::GuardWithIf)
        .split(s.g, s.g, gi, s.sums.side, TailStrategy::GuardWithIf)
        .reorder(wi, s.phase, s.c, gi, strip, tile, s.g, s.n)
        .fuse(tile, s.g, task)
        .fuse(task, s.n, task)
        .parallel(task)
        .vectorize(wi, lanes, TailStrategy::GuardWithIf);
    const LoopLevel at_task(result, task), at_strip(result, strip);
    schedule_grad_input(s, {at_task, at_task, at_strip, LoopLevel(result, gi)}, target);
    schedule_side_by_side(s.sums, s.p, s.column, s.width_block, at_task, at_strip, lanes);
}

namespace {

/// One task of grad_weight: out_block output channels, tile_channels input channels of one group or, of a depthwise
/// layer, several. Returns the loop over the groups of a task (the task's own where it has one), which makes the sums.
LoopLevel tile_grad_weight(const GradWeightStages &s) {
    Var ob("ob"), oi("oi"), cb("cb"), ci("ci"), co("co"), group("group"), task("task");
    // Written a few channels at a time, so that the sums and the rows of the result stay in L1 while they are
    // transposed.
    constexpr int transposed_channels = 8;
    Func result = s.grad_weight;
    result.split(s.o, ob, oi, s.out_block, TailStrategy::GuardWithIf)
        .split(s.c, cb, ci, s.tile_channels, TailStrategy::GuardWithIf)
        .split(ci, co, ci, transposed_channels, TailStrategy::GuardWithIf)
        .reorder(s.k, ci, oi, co, cb, ob, s.g);
    const bool several_groups = s.out_block == 1;
    if (several_groups) {
        result.split(s.g, s.g, group, groups_of_task, TailStrategy::GuardWithIf)
            .reorder(s.k, ci, oi, co, group, cb, ob, s.g);
    }
    result.fuse(cb, ob, task).fuse(task, s.g, task).parallel(task);
    for (const Expr &condition : s.cases)
        result.specialize(condition);
    return {result, several_groups ? group : task};
}

/// The same for a result that is turned: one task has tile_weights of out_block rows, square by square.
LoopLevel tile_turned(const GradWeightLookupStages &s, int lanes) {
    Var ob("ob"), oi("oi"), tile("tile"), in_tile("in_tile"), square("square"), in_square("in_square");
    Var block("block"), column("column"), task("task");
    Func result = s.grad_weight;
    result.split(s.o, ob, oi, s.out_block, TailStrategy::GuardWithIf)
        .split(oi, block, column, s.side)
        .split(s.at, tile, in_tile, s.tile_weights, TailStrategy::GuardWithIf)
        .split(in_tile, square, in_square, s.side)
        .reorder(in_square, column, square, block, s.c, tile, ob, s.g)
        .vectorize(in_square, std::min(lanes, s.side));
    result.fuse(tile, ob, task).fuse(task, s.g, task).parallel(task);
    for (const Expr &condition : s.cases)
        result.specialize(condition);
    if (Func places = s.places; places.defined()) places.compute_root();
    turn_squares(s.turn, s.pair, s.along, s.side, {result, square}, lanes);
    return {result, task};
}

/// gy(w, ...) turned to run along output channels, block by block.
void transpose_at(Func transposed, const LoopLevel &level, const Var &w, const Var &o, int lanes) {
    Var wi("wi");
    transposed.compute_at(level).split(w, w, wi, lanes, TailStrategy::RoundUp).reorder(wi, o, w).vectorize(wi);
}

/// The input of the float forms: quantized once, padded once per tile, at `level`.
void schedule_input(const GradWeightStages &s, const LoopLevel &level, int lanes) {
    Func padded = s.padded;
    schedule_values(s.prepared);
    padded.compute_at(level).vectorize(s.p, lanes, TailStrategy::RoundUp);
    for (const Expr &condition : s.prepared.padded_cases)
        padded.specialize(condition);
}

} // namespace

void Cpu::apply(const GradWeightLookupStages &s, const Target &target) const {
    const int lanes = target.natural_vector_size<float>();
    const int bytes = target.natural_vector_size<uint8_t>();
    Func acc = s.acc;
    const LoopLevel level = tile_turned(s, lanes);
    acc.compute_at(level).bound_extent(s.o, s.out_block).vectorize(s.o, lanes).unroll(s.o);
    // Every table row, once in L1, serves all taps and channels of the task.
    acc.update()
        .reorder(s.o, s.tables, s.k, s.c, s.chunk, s.tile, s.sample)
        .vectorize(s.o, lanes)
        .unroll(s.o)
        .unroll(s.tables);
    Func table = s.table;
    table.compute_at(acc, s.chunk)
        .bound_extent(s.entry, s.table_entries)
        .vectorize(s.o, lanes)
        .unroll(s.o)
        .unroll(s.entry);
    for (Func half : s.halves)
        half.compute_at(table, half.args()[2]).vectorize(s.o, lanes).unroll(s.o).unroll(s.entry);
    transpose_at(s.transposed, LoopLevel(acc, s.tile), s.w, s.o, lanes);

    // The input's entries serve all output channels.
    Func input_bits = s.bits, padded = s.padded, index = s.index, outside = s.outside;
    Var row("row");
    index.compute_root()
        .vectorize(s.p, bytes, TailStrategy::RoundUp)
        .fuse(s.c, s.g, row)
        .fuse(row, s.n, row)
        .parallel(row);
    input_bits.compute_at(index, row)
        .align_bounds(s.p, word_positions)
        .vectorize(s.p, word_positions, TailStrategy::RoundUp);
    for (const Expr &condition : s.bits_cases)
        input_bits.specialize(condition);
    padded.compute_at(index, row).vectorize(s.p, bytes, TailStrategy::RoundUp);
    outside.compute_at(level).vectorize(s.o, lanes);
    outside.update(0).unscheduled();
    outside.update(1).unscheduled();
}

void Cpu::apply(const GradWeightSumStages &s, const Target &target) const {
    const int lanes = target.natural_vector_size<float>();
    Func result = s.grad_weight, acc = s.acc, part = s.part;
    const LoopLevel level = tile_grad_weight(s);
    acc.compute_at(level).vectorize(s.o, lanes);
    Var cb("cb"), ci("ci"), kb("kb"), ki("ki");
    acc.update()
        .split(s.c, cb, ci, s.channel_block, TailStrategy::RoundUp)
        .split(s.k, kb, ki, s.tap_block, TailStrategy::RoundUp)
        .reorder(s.o, ki, ci, kb, cb, s.tile, s.sample)
        .vectorize(s.o, lanes)
        .unroll(s.o)
        .unroll(ki)
        .unroll(ci);
    acc.bound_extent(s.o, s.out_block);
    part.compute_at(acc, kb).vectorize(s.o, lanes).unroll(s.o).unroll(s.k).unroll(s.c);
    part.update().reorder(s.o, s.k, s.c, s.positions).vectorize(s.o, lanes).unroll(s.o).unroll(s.k).unroll(s.c);
    transpose_at(s.transposed, LoopLevel(acc, s.tile), s.w, s.o, lanes);
    schedule_input(s, LoopLevel(acc, s.tile), lanes);
}

void Cpu::apply(const GradWeightRowStages &s, const Target &target) const {
    const int lanes = target.natural_vector_size<float>();
    Func result = s.grad_weight, acc = s.acc, part = s.part, rows = s.rows, phased = s.phased;
    const LoopLevel level = tile_grad_weight(s);
    Var kb("kb"), ki("ki"), l = part.args()[0];
    acc.compute_at(level);
    acc.update()
        .split(s.k, kb, ki, s.tap_block, TailStrategy::RoundUp)
        .reorder(s.lane, ki, kb, s.c, s.o, s.tile, s.sample)
        .atomic()
        .vectorize(s.lane, s.width_block)
        .unroll(ki);
    part.compute_at(acc, kb).vectorize(l, lanes).unroll(l).unroll(s.k);
    part.update().reorder(l, s.k, s.vectors).vectorize(l, lanes).unroll(l).unroll(s.k);
    rows.compute_at(acc, s.tile).vectorize(s.w, lanes, TailStrategy::RoundUp);
    schedule_input(s, LoopLevel(acc, s.tile), lanes);
    if (phased.defined()) phased.compute_at(acc, s.tile).vectorize(s.p, lanes, TailStrategy::RoundUp);
    for (Func table : s.tap_tables)
        table.compute_root();
}

void Cpu::apply(const StateStages &s, const Target &target) const {
    Func state = s.state, joined = s.joined, packed = s.packed;
    state.reorder(s.plane, s.word, s.row).parallel(s.row);
    for (const Expr &condition : s.cases)
        state.specialize(condition);
    packed.compute_at(state, s.word).store_in(MemoryType::Stack).vectorize(s.i, target.natural_vector_size<uint32_t>());
    packed.bound_extent(s.i, word_positions).unroll(s.i);
    joined.compute_at(state, s.plane).store_in(MemoryType::Stack);
    joined.update().atomic().vectorize(s.bits);
}

} // namespace qconv::schedules
