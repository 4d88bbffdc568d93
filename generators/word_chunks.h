// The words of a window in chunks whose sums fit counters narrower than 32 bits.
#pragma once

#include <utility>

#include "Halide.h"

namespace qconv {

/// Chunks of at most `most` words: whole taps where a tap has few rows, else parts of one tap.
struct WordChunks {
    using Expr = Halide::Expr;

    Halide::Var tap_chunk{"tap_chunk"}, row_chunk{"row_chunk"};
    Expr steps, rows;          ///< of the window
    Expr tap_count, row_count; ///< of a chunk

    WordChunks(int most, Expr window_steps, Expr window_rows)
        : steps(std::move(window_steps)),
          rows(std::move(window_rows)),
          tap_count(Halide::clamp(most / rows, 1, steps)),
          row_count(Halide::min(rows, most)) {}

    /// The step and row of the word that is `tap` and `row` of `r` from its chunk's first; `r` is kept inside the
    /// window.
    std::pair<Expr, Expr> word(Halide::RDom &r, const Expr &tap, const Expr &row) const {
        const Expr step = tap_chunk * tap_count + tap, channel_row = row_chunk * row_count + row;
        r.where(step < steps);
        r.where(channel_row < rows);
        // The bounds that the conditions imply, said so that no words beyond them are packed.
        return {Halide::min(step, steps - 1), Halide::min(channel_row, rows - 1)};
    }

    /// All chunks, those of taps first.
    Halide::RDom all() const {
        return {0, (steps + tap_count - 1) / tap_count, 0, (rows + row_count - 1) / row_count, "chunks"};
    }
};

} // namespace qconv
