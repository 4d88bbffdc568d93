// The seam between algorithms and schedules. A generator fills one ForwardStages; apply() schedules it for the target.
// Schedules define no Func; generators read no target.
#pragma once

#include <vector>

#include "Halide.h"

namespace qconv::schedules {

/// A forward convolution, as its generator built it. Vars are shared by all Funcs that have them.
struct ForwardStages {
    /// y(w, o, g, n), with two update definitions (left and right edge columns) on the packed paths.
    Halide::Func y;
    Halide::Var w, o, g, n;
    Halide::Expr tile_width; ///< output positions per task
    int out_block;           ///< output channels computed together; o of acc is padded up to it
    int width_block;         ///< output positions computed together

    /// Input stages in order of computation, indexed by padded position p (or p and stride phase) first: quantized,
    /// packed, joined, split by phase. Each is wanted once per task.
    std::vector<Halide::Func> input;
    Halide::Var p;
    /// A condition worth compiling the first input stage twice for (undefined: none).
    Halide::Expr first_stage_case;
    /// Stages that have this Var interleave elements into words: it is innermost in memory. May be unused.
    Halide::Var element;

    /// The reduction: acc(w, o, g, n), one update. `taps` and `rows` are its reduction variables.
    Halide::Func acc;
    Halide::RVar taps, rows;
    /// Set where acc also sums the elements of a word: the reduction of a dot-product instruction.
    Halide::RVar dot;
    bool has_dot = false;
    /// window(w, g, n): one update, wanted once per task. May be undefined.
    Halide::Func window;

    /// Byte-counter popcount: counts(w, o, g, n, tap chunk, row chunk) feeds acc in place of the words. Else undefined.
    Halide::Func counts;
    Halide::RVar count_taps, count_rows;
};

/// Schedules every stage for the generator's target.
void apply(const ForwardStages &stages, const Halide::GeneratorContext &context);

} // namespace qconv::schedules
