// Schedules for x86-64: SSE4.1, AVX2 and AVX-512. Vectors run along output positions.
#include <algorithm>

#include "schedules/schedule.h"

namespace qconv::schedules {

using namespace Halide;

namespace {

constexpr int longest_edge_vector = 16;

bool is_argument(const Func &f, const Var &v) {
    const std::vector<Var> args = f.args();
    return std::any_of(args.begin(), args.end(), [&](const Var &a) { return a.name() == v.name(); });
}

/// One task: one batch entry, one group, tile_width positions. Input stages are private to it and stay in L1 or L2.
/// y is left with loops over wi (inside a strip of width_block positions), strip and task, to be reordered with o.
struct Loops {
    Var tile{"tile"}, strip{"strip"}, wi{"wi"}, task{"task"};
};

Loops tile_output(Func y, const OutputStages &s, const Target &target) {
    Loops loops;
    y.split(s.w, loops.tile, s.w, s.tile_width, TailStrategy::GuardWithIf)
        .split(s.w, loops.strip, loops.wi, s.width_block, TailStrategy::GuardWithIf)
        .reorder(loops.wi, s.o, loops.strip, loops.tile, s.g, s.n)
        .fuse(loops.tile, s.g, loops.task)
        .fuse(loops.task, s.n, loops.task)
        .parallel(loops.task)
        .vectorize(loops.wi, target.natural_vector_size<float>(), TailStrategy::GuardWithIf);
    for (int u = 0; u < y.num_update_definitions(); u++)
        y.update(u).unscheduled(); // a few columns
    return loops;
}

/// Input stages run along positions in whole vectors; what they compute beyond the tile is never read.
void schedule_input(Func y, const OutputStages &s, const Loops &loops, const Target &target) {
    for (Func table : s.tap_tables)
        table.compute_root();
    for (size_t i = 0; i < s.input.size(); i++) {
        Func stage = s.input[i];
        // The first stage reads x, element by element where a vector reaches over an end: short vectors bound that.
        const int natural = target.natural_vector_size(stage.type());
        const int lanes = i == 0 ? std::min(natural, longest_edge_vector) : natural;
        if (is_argument(stage, s.element)) stage.reorder(s.element, s.p).unroll(s.element);
        stage.compute_at(y, loops.task).vectorize(s.p, lanes, TailStrategy::RoundUp);
        const std::vector<Expr> cases = i == 0 ? s.first_stage_cases : std::vector<Expr>{};
        for (const Expr &condition : cases)
            stage.specialize(condition);
        if (s.phased.defined() && stage.name() == s.phased.name()) {
            for (const Expr &condition : s.phase_cases)
                stage.specialize(condition);
        }
        for (int u = 0; u < stage.num_update_definitions(); u++) {
            stage.update(u).vectorize(s.p, lanes, TailStrategy::RoundUp);
            for (const Expr &condition : cases)
                stage.update(u).specialize(condition);
        }
    }
}

} // namespace

void apply(const ForwardStages &s, const GeneratorContext &context) {
    const Target target = context.target();
    Func y = s.y;
    const Loops loops = tile_output(y, s, target);
    // The weights of one block of output channels are reused over all strips of a task.
    Var block("block"), oi("oi");
    y.split(s.o, block, oi, s.out_block, TailStrategy::GuardWithIf)
        .reorder(loops.wi, oi, loops.strip, block, loops.task)
        .unroll(oi);
    schedule_input(y, s, loops, target);

    Func acc = s.acc;
    const int lanes = target.natural_vector_size<int32_t>();
    acc.compute_at(y, loops.strip)
        .bound_extent(s.w, s.width_block)
        .bound_extent(s.o, s.out_block)
        .align_bounds(s.o, s.out_block)
        .vectorize(s.w, lanes)
        .unroll(s.w)
        .unroll(s.o);
    // Taps innermost: neighbouring taps read the same cache lines of one row.
    if (s.has_dot) {
        acc.update().reorder(s.dot, s.w, s.o, s.taps, s.rows).atomic().vectorize(s.dot);
    } else {
        acc.update().reorder(s.w, s.o, s.taps, s.rows);
    }
    acc.update().vectorize(s.w, lanes).unroll(s.w).unroll(s.o);

    if (s.window.defined()) {
        Func window = s.window;
        window.compute_at(y, loops.task).vectorize(s.w, lanes, TailStrategy::RoundUp);
        window.update().reorder(s.w, window.rvars()[0]).vectorize(s.w, lanes, TailStrategy::RoundUp);
    }
    if (s.counts.defined()) {
        Func counts = s.counts;
        const int bytes = target.natural_vector_size<uint8_t>();
        counts.compute_at(acc, s.taps).vectorize(s.w, bytes).unroll(s.w).unroll(s.o);
        counts.update().reorder(s.w, s.o, s.count_taps, s.count_rows).vectorize(s.w, bytes).unroll(s.w).unroll(s.o);
    }
}

void apply(const LookupStages &s, const GeneratorContext &context) {
    const Target target = context.target();
    Func y = s.y;
    const Loops loops = tile_output(y, s, target);
    schedule_input(y, s, loops, target);

    // Tables are built for one strip and a chunk of channel groups, then serve every output channel while in L1.
    const int lanes = target.natural_vector_size<float>();
    Func acc = s.acc, part = s.part, table = s.table;
    acc.compute_at(y, loops.strip).bound_extent(s.w, s.width_block).vectorize(s.w, lanes).unroll(s.w);
    acc.update().reorder(s.w, s.o, s.chunks).vectorize(s.w, lanes).unroll(s.w);
    part.compute_at(acc, s.o).vectorize(s.w, lanes).unroll(s.w);
    part.update().reorder(s.w, s.tables, s.taps).vectorize(s.w, lanes).unroll(s.w).unroll(s.tables);
    table.compute_at(acc, s.chunks)
        .bound_extent(s.entry, s.table_entries)
        .vectorize(s.p, lanes, TailStrategy::RoundUp)
        .unroll(s.entry);
    for (Func half : s.halves)
        half.compute_at(table, s.p).vectorize(s.p, lanes, TailStrategy::RoundUp).unroll(s.entry);
}

} // namespace qconv::schedules
