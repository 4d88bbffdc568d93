// Schedules of the forward pass, and of what runs between the layers of a network.
#include "schedules/cpu.h"

#include <algorithm>

namespace qconv::schedules {

using namespace Halide;

namespace {

constexpr int longest_edge_vector = 16;

bool is_argument(const Func &f, const Var &v) {
    const std::vector<Var> args = f.args();
    return std::any_of(args.begin(), args.end(), [&](const Var &a) { return a.name() == v.name(); });
}

/// One task: one batch entry, one group or some, tile_width positions. Input stages are private to a group and stay in
/// L1 or L2. y is left with loops over wi (inside a strip of width_block positions), strip, group and task (the same
/// loop where a task has one group), to be reordered with o.
struct Loops {
    Var tile{"tile"}, strip{"strip"}, wi{"wi"}, task{"task"}, group{task};
};

/// `o`: what of y lies between the loops over tasks and strips, channels or words of them. several_groups: a task has
/// groups_of_task of them.
Loops tile_output(Func y, const OutputStages &s, const Var &o, bool several_groups, const Target &target) {
    Loops loops;
    y.split(s.w, loops.tile, s.w, s.tile_width, TailStrategy::GuardWithIf)
        .split(s.w, loops.strip, loops.wi, s.width_block, TailStrategy::GuardWithIf)
        .reorder(loops.wi, o, loops.strip, loops.tile, s.g, s.n);
    if (several_groups) {
        loops.group = Var("group");
        y.split(s.g, s.g, loops.group, groups_of_task, TailStrategy::GuardWithIf)
            .reorder(loops.wi, o, loops.strip, loops.group, loops.tile, s.g, s.n);
    }
    y.fuse(loops.tile, s.g, loops.task)
        .fuse(loops.task, s.n, loops.task)
        .parallel(loops.task)
        .vectorize(loops.wi, target.natural_vector_size<float>(), TailStrategy::GuardWithIf)
        .unroll(loops.wi); // or the sums, which a loop would index, could not stay in registers
    for (int u = 0; u < y.num_update_definitions(); u++)
        y.update(u).unscheduled(); // a few columns
    return loops;
}

/// Input stages run along positions in whole vectors; what they compute beyond the tile is never read.
void schedule_input(const Func &y, const OutputStages &s, const Loops &loops, const Target &target) {
    for (Func table : s.tap_tables)
        table.compute_root();
    if (!s.prepared.values_cases.empty()) schedule_values(s.prepared);
    for (size_t i = 0; i < s.input.size(); i++) {
        Func stage = s.input[i];
        // The first stage reads x, element by element where a vector reaches over an end: short vectors bound that.
        const int natural = target.natural_vector_size(stage.type());
        const int lanes = i == 0 ? std::min(natural, longest_edge_vector) : natural;
        if (is_argument(stage, s.element)) stage.reorder(s.element, s.p).unroll(s.element);
        stage.compute_at(y, loops.group).hoist_storage(y, loops.task).vectorize(s.p, lanes, TailStrategy::RoundUp);
        const std::vector<Expr> cases = i == 0 ? s.first_stage_cases : std::vector<Expr>{};
        for (const Expr &condition : cases)
            stage.specialize(condition);
        if (s.phased.defined() && stage.name() == s.phased.name()) {
            for (const Expr &condition : s.phase_cases)
                stage.specialize(condition);
        }
        for (int u = 0; u < stage.num_update_definitions(); u++) {
            // Passes over few rows of x: many rows at once would be too many streams for the prefetcher.
            const std::vector<RVar> passes = stage.rvars(u);
            stage.update(u).reorder(s.p, passes.front()).vectorize(s.p, lanes, TailStrategy::RoundUp);
            for (const Expr &condition : cases)
                stage.update(u).specialize(condition);
        }
    }
}

/// One position at a time: a vector of byte counters has a block of output channels, and words of x are joined row by
/// row. A task has the columns of one batch entry and group, all of them where they are few.
void schedule_across_outputs(const ForwardStages &s, const Target &target) {
    Func y = s.y, acc = s.acc, counts = s.counts;
    const int floats = target.natural_vector_size<float>(), bytes = target.natural_vector_size<uint8_t>();
    Var tile("tile"), block("block"), oi("oi"), task("task");
    y.split(s.w, tile, s.w, s.tile_width, TailStrategy::GuardWithIf)
        .split(s.o, block, oi, s.out_block, TailStrategy::GuardWithIf)
        .reorder(oi, s.w, block, tile, s.g, s.n)
        .fuse(tile, s.g, task)
        .fuse(task, s.n, task)
        .parallel(task)
        .vectorize(oi, floats, TailStrategy::GuardWithIf);
    // One column: its outputs are neighbours.
    y.specialize(y.output_buffer().dim(1).stride() == 1);
    for (int u = 0; u < y.num_update_definitions(); u++) {
        // The columns outermost: in most calls there are none, and no loop then.
        std::vector<VarOrRVar> order{s.o, s.g, s.n};
        order.emplace_back(y.rvars(u).front());
        y.update(u).reorder(order);
    }
    for (size_t i = 0; i < s.input.size(); i++) {
        // Of the last stage, words, each is made alone.
        Func stage = s.input[i];
        const Var channel = stage.args()[1];
        stage.compute_at(y, task).reorder_storage(channel, s.p).reorder(channel, s.p);
        if (i + 1 == s.input.size()) break;
        stage.vectorize(channel, bytes, TailStrategy::RoundUp);
        for (const Expr &condition : s.first_stage_cases)
            stage.specialize(condition);
    }
    acc.compute_at(y, s.w)
        .bound_extent(s.w, 1)
        .bound_extent(s.o, s.out_block)
        .align_bounds(s.o, s.out_block)
        .vectorize(s.o, floats)
        .unroll(s.o);
    acc.update().reorder(s.o, s.w, s.taps, s.rows).vectorize(s.o, floats).unroll(s.o);
    counts.compute_at(acc, s.taps).vectorize(s.o, bytes).unroll(s.o);
    counts.update().reorder(s.o, s.w, s.count_taps, s.count_rows).vectorize(s.o, bytes).unroll(s.o);
}

} // namespace

void Cpu::schedule_sums(const ForwardStages &s, const LoopLevel &level, const Target &target) const {
    Func acc = s.acc;
    // A step of one output channel loads every vector anew, from anywhere: 64 bytes nearly always cross a cache line.
    const bool loads_most = s.out_block == 1 && acc.types().front().is_float() && s.width_block >= 64;
    const int natural = target.natural_vector_size<int32_t>();
    const int lanes = std::min(loads_most ? std::min(natural, 8) : natural, s.width_block);
    acc.compute_at(level)
        .bound_extent(s.w, s.width_block)
        .bound_extent(s.o, s.out_block)
        .align_bounds(s.o, s.out_block)
        .vectorize(s.w, lanes)
        .unroll(s.w)
        .unroll(s.o);
    if (!s.byte_sums.first.empty()) {
        schedule_byte_sums(s);
    } else if (s.partial.defined()) {
        Func partial = s.partial;
        acc.update().reorder(s.lanes, s.w, s.o).vectorize(s.w, lanes).atomic().vectorize(s.lanes);
        acc.update().unroll(s.w).unroll(s.o);
        partial.compute_at(level)
            .bound_extent(s.lane, s.vector_words)
            .align_bounds(s.o, s.out_block)
            .vectorize(s.lane)
            .unroll(s.w)
            .unroll(s.o);
        for (int u = 0; u < partial.num_update_definitions(); u++) {
            std::vector<VarOrRVar> order{s.lane, s.w, s.o};
            if (!partial.rvars(u).empty()) order.emplace_back(s.taps);
            partial.update(u).reorder(order).vectorize(s.lane).unroll(s.w).unroll(s.o);
        }
    } else {
        // Taps innermost: neighbouring taps read the same cache lines of one row.
        if (s.has_dot && !s.counts.defined()) {
            acc.update().reorder(s.dot, s.w, s.o, s.taps, s.rows).atomic().vectorize(s.dot);
        } else {
            acc.update().reorder(s.w, s.o, s.taps, s.rows);
        }
        acc.update().vectorize(s.w, lanes).unroll(s.w).unroll(s.o);
        // A loop over few taps takes as long to begin as to run. On Zen 3, 2026-12-01: 58 -> 84% of the FMA peak for
        // three taps, 30 -> 88% for one. Of longer vectors it was not measured.
        if (s.many_rows.defined() && target.arch == Target::X86 && natural <= 8)
            acc.update().specialize(s.many_rows).reorder(s.rows, s.taps);
        if (s.weights.defined()) {
            stage_weights(s, s.counts.defined() ? LoopLevel(s.counts, s.count_taps) : LoopLevel(acc, s.taps));
        }
    }
    if (s.counts.defined()) {
        Func counts = s.counts;
        const int count_lanes = std::min(target.natural_vector_size(counts.type()), s.width_block);
        counts.compute_at(acc, s.taps).vectorize(s.w, count_lanes).unroll(s.w).unroll(s.o);
        counts.update()
            .reorder(s.w, s.o, s.count_taps, s.count_rows)
            .vectorize(s.w, count_lanes)
            .unroll(s.w)
            .unroll(s.o);
        if (Func word_sum = s.word_sum; word_sum.defined()) {
            word_sum.compute_at(counts, s.o).vectorize(s.w, count_lanes).unroll(s.w);
            // A sum with saturation, which is associative where nothing saturates.
            word_sum.update().reorder(s.dot, s.w).atomic(true).vectorize(s.dot).vectorize(s.w, count_lanes).unroll(s.w);
        }
    }
}

void Cpu::schedule_byte_sums(const ForwardStages &s) const {
    const ByteSums &b = s.byte_sums;
    const int bytes = b.bytes;
    Func acc = s.acc, counts = b.counts;
    acc.update()
        .reorder(s.lanes, s.w, s.o, s.taps)
        .vectorize(s.w, s.width_block)
        .atomic()
        .vectorize(s.lanes)
        .unroll(s.o);
    for (size_t i = 0; i < b.halved.size(); i++) {
        Func halved = b.halved[i];
        const int lanes = bytes >> (i + 1);
        halved.compute_at(acc, s.taps)
            .bound_extent(b.byte, lanes)
            .bound_extent(s.w, s.width_block)
            .vectorize(b.byte, lanes)
            .vectorize(s.w, s.width_block)
            .unroll(s.o);
        halved.update()
            .reorder(b.pairs[i], b.byte, s.w, s.o)
            .vectorize(b.byte, lanes)
            .vectorize(s.w, s.width_block)
            .atomic()
            .vectorize(b.pairs[i])
            .unroll(s.o);
    }
    counts.compute_at(acc, s.taps).bound_extent(b.byte, bytes).vectorize(b.byte, bytes).unroll(s.w).unroll(s.o);
    counts.update().reorder(b.byte, s.w, s.o, b.vectors).vectorize(b.byte, bytes).unroll(s.w).unroll(s.o);
    const auto load = [&](std::vector<Func> operands, const LoopLevel &level) {
        for (Func operand : operands)
            operand.compute_at(level).bound_extent(b.byte, bytes).align_bounds(b.byte, bytes).vectorize(b.byte, bytes);
        operands[0].unroll(s.w);
        operands[1].align_bounds(s.o, s.out_block).unroll(s.o);
    };
    load(b.first, LoopLevel(acc, s.taps));
    load(b.next, LoopLevel(counts, b.vectors));
}

void Cpu::apply(const ForwardStages &s, const Target &target) const {
    if (s.width_block == 1 && s.counts.defined()) return schedule_across_outputs(s, target);
    Func y = s.y;
    const Loops loops = tile_output(y, s, s.o, s.out_block == 1, target);
    const bool lays_out = s.patch.defined() && s.out_block > 1 && lays_out_patches(target);
    Var block("block"), oi("oi");
    y.split(s.o, block, oi, s.out_block, TailStrategy::GuardWithIf);
    if (lays_out) {
        // The patches of a strip stay in L1 while all weights stream by.
        y.reorder(loops.wi, oi, block, loops.strip, loops.group);
    } else {
        // The weights of one block of output channels are reused over all strips of a task.
        y.reorder(loops.wi, oi, loops.strip, block, loops.group);
    }
    y.unroll(oi);
    schedule_input(y, s, loops, target);

    schedule_sums(s, LoopLevel(y, lays_out ? block : loops.strip), target);
    if (lays_out) {
        Func patch = s.patch;
        const std::vector<Var> args = patch.args(); // after these two: step, row
        patch.compute_at(y, loops.strip)
            .hoist_storage(y, loops.task)
            .bound_extent(s.w, s.width_block)
            .reorder(s.element, s.w, args[2], args[3])
            .unroll(s.element)
            .vectorize(s.w, std::min(target.natural_vector_size(patch.type()), s.width_block))
            .unroll(s.w);
    }
    if (s.window.defined()) {
        Func window = s.window, window_acc = s.window_acc;
        const int lanes = std::min(target.natural_vector_size<int32_t>(), s.width_block);
        Var strip("window_strip");
        window.compute_at(y, loops.group)
            .split(s.w, strip, s.w, s.width_block, TailStrategy::RoundUp)
            .vectorize(s.w, lanes);
        window_acc.compute_at(window, strip).vectorize(s.w, lanes).unroll(s.w);
        if (s.has_dot) {
            window_acc.update().reorder(s.dot, s.w, s.taps, s.rows).atomic().vectorize(s.dot);
        } else {
            window_acc.update().reorder(s.w, s.taps, s.rows);
        }
        window_acc.update().vectorize(s.w, lanes).unroll(s.w);
    }
}

void Cpu::apply(const DepthwiseStages &s, const Target &target) const {
    Func y = s.y, acc = s.sums.acc;
    const int lanes = target.natural_vector_size<float>();
    Loops loops;
    Var gi("gi");
    y.split(s.w, loops.tile, s.w, s.tile_width, TailStrategy::GuardWithIf)
        .split(s.w, loops.strip, loops.wi, s.width_block, TailStrategy::GuardWithIf)
        .split(s.g, s.g, gi, s.sums.side, TailStrategy::GuardWithIf)
        .reorder(loops.wi, gi, s.o, loops.strip, loops.tile, s.g, s.n)
        .fuse(loops.tile, s.g, loops.task)
        .fuse(loops.task, s.n, loops.task)
        .parallel(loops.task)
        .vectorize(loops.wi, lanes, TailStrategy::GuardWithIf);
    schedule_input(y, s, loops, target);
    schedule_side_by_side(s.sums, s.p, s.w, s.width_block, {y, loops.task}, {y, loops.strip}, lanes);
    for (const Expr &condition : s.phase_cases)
        acc.update().specialize(condition);
}

void Cpu::apply(const LookupStages &s, const Target &target) const {
    Func y = s.y;
    const Loops loops = tile_output(y, s, s.o, false, target);
    schedule_input(y, s, loops, target);

    // Tables are built for one strip and a chunk of channel groups, then serve every output channel while in L1.
    const int lanes = target.natural_vector_size<float>();
    Func acc = s.acc, part = s.part, table = s.table;
    acc.compute_at(y, loops.strip).bound_extent(s.w, s.width_block).vectorize(s.w, lanes).unroll(s.w);
    acc.update().reorder(s.w, s.o, s.chunks).vectorize(s.w, lanes).unroll(s.w);
    part.compute_at(acc, s.o).vectorize(s.w, lanes).unroll(s.w);
    part.update().reorder(s.w, s.tables, s.taps).vectorize(s.w, lanes).unroll(s.w).unroll(s.tables);
    build_tables(table, s.halves, LoopLevel(acc, s.chunks), s.p, s.entry, s.table_entries, lanes);
}

void Cpu::apply(const BitsStages &s, const Target &target) const {
    Func y = s.y, words = s.words;
    const Loops loops = tile_output(y, s, s.row, false, target);
    // The weights of 32 channels are reused over all strips of a task.
    y.reorder(loops.wi, loops.strip, s.row, loops.group);
    schedule_input(y, s, loops, target);
    const int lanes = target.natural_vector_size<uint32_t>();
    words.compute_at(y, loops.strip)
        .bound_extent(s.w, s.width_block)
        .bound_extent(s.row, 1)
        .store_in(MemoryType::Stack)
        .vectorize(s.w, lanes)
        .unroll(s.w);
    words.update().reorder(s.w, s.row, s.g, s.n, s.blocks).vectorize(s.w, lanes).unroll(s.w);
    for (const Expr &condition : s.cases)
        words.update().specialize(condition);
    schedule_sums(s, LoopLevel(words, s.blocks), target);
}

void Cpu::apply(const ToBitsStages &s, const Target &target) const {
    constexpr int tile_width = 1024, strip_width = 64;
    const int lanes = target.natural_vector_size<float>();
    Func y = s.y, words = s.words;
    Var tile("tile"), strip("strip"), pi("pi"), task("task");
    y.split(s.p, tile, s.p, tile_width, TailStrategy::GuardWithIf)
        .split(s.p, strip, pi, strip_width, TailStrategy::GuardWithIf)
        .reorder(pi, strip, s.row, tile, s.n)
        .fuse(tile, s.n, task)
        .parallel(task)
        .vectorize(pi, lanes, TailStrategy::GuardWithIf);
    words.compute_at(y, strip)
        .bound_storage(s.p, strip_width)
        .bound_storage(s.row, 1)
        .bound_storage(s.n, 1)
        .store_in(MemoryType::Stack)
        .vectorize(s.p, lanes, TailStrategy::GuardWithIf);
    words.update().reorder(s.p, s.row, s.n, words.rvars()[0]).vectorize(s.p, lanes, TailStrategy::GuardWithIf);
}

} // namespace qconv::schedules
