// The quantizers of bitorch as Halide expressions: one forward function each, its surrogate gradient beside it.
// Every function maps one float32 value; `levels` is 2^bits - 1. Checked against bitorch 0.4.1.
#pragma once

#include "Halide.h"
#include "qconv/qconv.h"

namespace qconv::quantizers {

using Halide::Expr;

/// a <= b, and false of NaN: Halide turns <= into the negation of >, which NaN passes.
inline Expr at_most(const Expr &a, const Expr &b) {
    return Halide::strict_float(a < b) || Halide::strict_float(a == b);
}

/// -1 if v < 0, else +1; so -0.0 and NaN give +1, as in bitorch.
inline Expr sign(const Expr &v) {
    return Halide::select(v < 0.0f, -1.0f, 1.0f);
}
inline Expr sign_gradient(const Expr &) {
    return 1.0f;
}

/// The surrogate (2 - 2|v|) on [-1, 1] of approxsign; its forward is sign.
inline Expr approxsign(const Expr &v) {
    return sign(v);
}
inline Expr approxsign_gradient(const Expr &v) {
    return Halide::select(at_most(Halide::abs(v), 1.0f), 2.0f - 2.0f * Halide::abs(v), 0.0f);
}

/// The surrogate beta * (2 - beta*v*tanh(beta*v/2)) / (1 + cosh(beta*v)) of swishsign; its forward is sign.
inline Expr swishsign(const Expr &v) {
    return sign(v);
}
inline Expr swishsign_gradient(const Expr &v, const Expr &beta) {
    const Expr t = beta * v;
    return beta * (2.0f - t * Halide::tanh(t * 0.5f)) / (1.0f + Halide::cosh(t));
}

/// +1 if v > 0, else -1 (0 and NaN give -1).
inline Expr steheaviside(const Expr &v) {
    return Halide::select(v > 0.0f, 1.0f, -1.0f);
}
inline Expr steheaviside_gradient(const Expr &v) {
    return Halide::select(at_most(Halide::abs(v), 1.0f), 1.0f, 0.0f);
}

/// The integer level 0..levels of inputdorefa, still as a float: clamp(v, 0, 1) * levels, half to even. NaN gives 0.
inline Expr inputdorefa_level(const Expr &v, const Expr &levels) {
    const Expr positive = Halide::select(Halide::strict_float(v > 0.0f), v, 0.0f);
    return Halide::round(Halide::min(positive, 1.0f) * levels);
}
inline Expr inputdorefa(const Expr &v, const Expr &levels) {
    return inputdorefa_level(v, levels) / levels;
}
inline Expr inputdorefa_gradient(const Expr &) {
    return 1.0f;
}

/// `divisor` is 2 * max|tanh(V)| over the whole tensor V that v belongs to.
inline Expr weightdorefa(const Expr &v, const Expr &levels, const Expr &divisor) {
    return 2.0f * (Halide::round((Halide::tanh(v) / divisor + 0.5f) * levels) / levels) - 1.0f;
}
inline Expr weightdorefa_gradient(const Expr &) {
    return 1.0f;
}

/// Training form: hardtanh(v / divisor), divisor = max(1 - T, 1e-7), T = 1 - alpha^(-beta * scale). Evaluation: sign.
inline Expr progressive_sign(const Expr &v, const Expr &divisor) {
    return Halide::clamp(v / divisor, -1.0f, 1.0f);
}
inline Expr progressive_sign_gradient(const Expr &) {
    return 1.0f;
}

inline Expr identity(const Expr &v) {
    return v;
}
inline Expr identity_gradient(const Expr &) {
    return 1.0f;
}

/// The forward function that `kind` selects at run time: identity, sign (which also stands for approxsign, swishsign
/// and progressive_sign in evaluation), steheaviside, inputdorefa, weightdorefa, or progressive_sign in training.
inline Expr forward(const Expr &kind, const Expr &v, const Expr &levels, const Expr &divisor) {
    using Halide::select;
    using Halide::strict_float;
    // Spelled so that specialising on `kind == ...` or `kind != QCONV_WEIGHTDOREFA` drops what is not needed.
    return select(kind == QCONV_IDENTITY, v, kind == QCONV_SIGN, strict_float(sign(v)), kind != QCONV_WEIGHTDOREFA,
                  strict_float(select(kind == QCONV_STEHEAVISIDE, steheaviside(v), kind == QCONV_INPUTDOREFA,
                                      inputdorefa(v, levels), progressive_sign(v, divisor))),
                  strict_float(weightdorefa(v, levels, divisor)));
}

/// The surrogate gradient that `kind` selects at run time.
inline Expr gradient(const Expr &kind, const Expr &v, const Expr &beta) {
    using Halide::select;
    return select(kind == QCONV_APPROXSIGN, approxsign_gradient(v), kind == QCONV_SWISHSIGN,
                  swishsign_gradient(v, beta), kind == QCONV_STEHEAVISIDE, steheaviside_gradient(v), 1.0f);
}

} // namespace qconv::quantizers
