// The output columns whose window reaches over an end of x, where padding with pad_level instead of pad_value is
// corrected (layout.h).
#pragma once

#include "Halide.h"

namespace qconv {

struct EdgeColumns {
    using Expr = Halide::Expr;
    Expr left, right; ///< columns before `left` and from `right` on
    Expr pad_left, width;
    Expr kernel_size, stride, dilation;

    /// The first tap inside x: all before it fall outside, on the left.
    Expr first_inside(const Expr &column) const { return first_tap(column, pad_left); }
    /// The first tap past x: it and all after it fall outside, on the right.
    Expr first_past(const Expr &column) const { return first_tap(column, pad_left + width); }

    /// The weights of the taps of a column's window that fall outside, over either end: of `edge`, as in ForwardArg.
    template <class Sums>
    Expr over_left(Sums &edge, const Expr &column, const Halide::Var &o, const Halide::Var &g) const {
        return edge(first_inside(column), o, g);
    }
    template <class Sums>
    Expr over_right(Sums &edge, const Expr &column, const Halide::Var &o, const Halide::Var &g) const {
        return edge(kernel_size, o, g) - edge(first_past(column), o, g);
    }

    /// y(w, o, g, n) += pad_delta * (weights of the taps outside x).
    template <class Result, class Sums>
    void correct(Result &y, const Expr &width_out, const Expr &pad_delta, Sums &edge, const Halide::Var &o,
                 const Halide::Var &g, const Halide::Var &n) const {
        Halide::RDom l(0, left, "left"), r(right, width_out - right, "right");
        y(l, o, g, n) += pad_delta * over_left(edge, l, o, g);
        y(r, o, g, n) += pad_delta * over_right(edge, r, o, g);
    }

private:
    /// The first tap at or after padded position `at`, for the window of this output column.
    Expr first_tap(const Expr &column, const Expr &at) const {
        return Halide::clamp((at - column * stride + dilation - 1) / dilation, 0, kernel_size);
    }
};

} // namespace qconv
