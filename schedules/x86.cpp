// Schedules for x86-64: SSE4.1, AVX2 and AVX-512. Vectors run along output positions.
#include <algorithm>

#include "schedules/schedule.h"

namespace qconv::schedules {

using namespace Halide;

namespace {

bool is_argument(const Func &f, const Var &v) {
    const std::vector<Var> args = f.args();
    return std::any_of(args.begin(), args.end(), [&](const Var &a) { return a.name() == v.name(); });
}

} // namespace

void apply(const ForwardStages &s, const GeneratorContext &context) {
    const Target target = context.target();
    const int float_lanes = target.natural_vector_size<float>();

    // One task: one batch entry, one group, tile_width positions. Input stages are private to it and stay in L1/L2;
    // inside, the weights of one block of output channels are reused over all positions of the task.
    Var tile("tile"), strip("strip"), block("block"), wi("wi"), oi("oi"), task("task");
    Func y = s.y;
    y.split(s.w, tile, s.w, s.tile_width, TailStrategy::GuardWithIf)
        .split(s.w, strip, wi, s.width_block, TailStrategy::GuardWithIf)
        .split(s.o, block, oi, s.out_block, TailStrategy::GuardWithIf)
        .reorder(wi, oi, strip, block, tile, s.g, s.n)
        .fuse(tile, s.g, task)
        .fuse(task, s.n, task)
        .parallel(task)
        .vectorize(wi, float_lanes, TailStrategy::GuardWithIf)
        .unroll(oi);
    for (int u = 0; u < y.num_update_definitions(); u++) y.update(u).unscheduled(); // a few columns

    for (size_t i = 0; i < s.input.size(); i++) {
        Func stage = s.input[i];
        const int lanes = target.natural_vector_size(stage.type());
        if (is_argument(stage, s.element)) stage.reorder(s.element, s.p).unroll(s.element);
        stage.compute_at(y, task).vectorize(s.p, lanes, TailStrategy::RoundUp);
        if (i == 0 && s.first_stage_case.defined()) stage.specialize(s.first_stage_case);
        for (int u = 0; u < stage.num_update_definitions(); u++) {
            stage.update(u).vectorize(s.p, lanes, TailStrategy::RoundUp);
            if (i == 0 && s.first_stage_case.defined()) stage.update(u).specialize(s.first_stage_case);
        }
    }

    Func acc = s.acc;
    const int lanes = target.natural_vector_size<int32_t>();
    acc.compute_at(y, strip)
        .bound_extent(s.w, s.width_block)
        .bound_extent(s.o, s.out_block)
        .align_bounds(s.o, s.out_block)
        .vectorize(s.w, lanes)
        .unroll(s.w)
        .unroll(s.o);
    if (s.has_dot) {
        acc.update().reorder(s.dot, s.w, s.o, s.taps, s.rows).atomic().vectorize(s.dot);
    } else {
        acc.update().reorder(s.w, s.o, s.taps, s.rows);
    }
    acc.update().vectorize(s.w, lanes).unroll(s.w).unroll(s.o);
    if (s.window.defined()) {
        Func window = s.window;
        window.compute_at(y, task).vectorize(s.w, lanes, TailStrategy::RoundUp);
        window.update().reorder(s.w, window.rvars()[0]).vectorize(s.w, lanes, TailStrategy::RoundUp);
    }
    if (!s.counts.defined()) return;
    Func counts = s.counts;
    const int bytes = target.natural_vector_size<uint8_t>();
    counts.compute_at(acc, s.rows).vectorize(s.w, bytes).unroll(s.w).unroll(s.o);
    counts.update().reorder(s.w, s.o, s.count_rows, s.count_taps).vectorize(s.w, bytes).unroll(s.w).unroll(s.o);
}

} // namespace qconv::schedules
