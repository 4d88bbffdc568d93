// The quantizers of bitorch as Halide expressions: one forward function each, its surrogate gradient beside it.
// Every function maps one float32 value; `levels` is 2^bits - 1. Checked against bitorch 0.4.1.
#pragma once

#include <string>
#include <vector>

#include "Halide.h"
#include "qconv/qconv.h"
#include "schedules/schedule.h"

namespace qconv::quantizers {

using Halide::Expr;

/// `yes` where `condition` holds, else `no`, of which only one is evaluated: a branch. In vectors `condition` must be
/// the same for all lanes, as an argument of the kernel is.
inline Expr choose(const Expr &condition, const Expr &yes, const Expr &no) {
    using Halide::Internal::Call;
    return Call::make(yes.type(), Call::if_then_else, {condition, yes, no}, Call::PureIntrinsic);
}

/// e^v, in the operations of a vector: one way of computing it wherever it stands.
inline Expr exponential(const Expr &v) {
    return Halide::Internal::halide_exp(v);
}

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

/// The surrogate beta * (2 - beta*v*tanh(beta*v/2)) / (1 + cosh(beta*v)) of swishsign; its forward is sign. Written in
/// e^-|beta*v|, which neither overflows nor cancels. Infinite v gives NaN, as in bitorch.
inline Expr swishsign(const Expr &v) {
    return sign(v);
}
inline Expr swishsign_gradient(const Expr &v, const Expr &beta) {
    const Expr t = Halide::abs(beta * v), e = exponential(-t), s = 1.0f + e;
    return beta * (2.0f * s - t * (1.0f - e)) * (2.0f * e) / (s * s * s);
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

/// Which of several formulas a call wants is known at run time only, and a kernel must not evaluate the others: they
/// are a stage of their own, specialised on each kind. Conditions are spelled `kind == ...`, which is what specialising
/// folds.
using schedules::KindStage;

/// stage(at) = the forward function that `kind` selects: identity, sign (which also stands for approxsign, swishsign
/// and progressive_sign in evaluation), steheaviside, inputdorefa, or progressive_sign in training. weightdorefa
/// is the runtime's.
inline KindStage forward(const std::string &name, const std::vector<Halide::Var> &at, const Expr &kind, const Expr &v,
                         const Expr &levels, const Expr &divisor) {
    using Halide::strict_float;
    Expr value = strict_float(progressive_sign(v, divisor));
    value = choose(kind == QCONV_INPUTDOREFA, strict_float(inputdorefa(v, levels)), value);
    value = choose(kind == QCONV_STEHEAVISIDE, strict_float(steheaviside(v)), value);
    value = choose(kind == QCONV_SIGN, strict_float(sign(v)), value);
    value = choose(kind == QCONV_IDENTITY, v, value);
    KindStage result{Halide::Func(name), {}};
    result.stage(at) = value;
    for (const int one : {QCONV_IDENTITY, QCONV_SIGN, QCONV_STEHEAVISIDE, QCONV_INPUTDOREFA})
        result.cases.push_back(kind == one);
    return result;
}

/// stage(at) = the surrogate gradient that `kind` selects; identity stands for all of derivative 1.
inline KindStage gradient(const std::string &name, const std::vector<Halide::Var> &at, const Expr &kind, const Expr &v,
                          const Expr &beta) {
    Expr factor = choose(kind == QCONV_STEHEAVISIDE, steheaviside_gradient(v), 1.0f);
    factor = choose(kind == QCONV_SWISHSIGN, swishsign_gradient(v, beta), factor);
    factor = choose(kind == QCONV_APPROXSIGN, approxsign_gradient(v), factor);
    KindStage result{Halide::Func(name), {}};
    result.stage(at) = factor;
    for (const int one : {QCONV_APPROXSIGN, QCONV_SWISHSIGN, QCONV_STEHEAVISIDE})
        result.cases.push_back(kind == one);
    return result;
}

/// (1 - mix) * first + mix * second.
inline Expr mixed(const Expr &mix, const Expr &first, const Expr &second) {
    return choose(mix == 0.0f, first, second * mix + first * (1.0f - mix));
}

/// An input quantizer as kernels get it: (1 - mix) * kind + mix * next.
struct InputQuantizer {
    Expr kind, levels, divisor, next, next_levels, next_divisor, mix;

    /// v by it, where the Vars `at` are; `kinds` receives the stages that this is made of.
    Expr quantize(const Expr &v, const std::vector<Halide::Var> &at, std::vector<KindStage> &kinds) const {
        kinds = {forward("first", at, kind, v, levels, divisor),
                 forward("second", at, next, v, next_levels, next_divisor)};
        const std::vector<Expr> here(at.begin(), at.end());
        return mixed(mix, kinds[0].stage(here), kinds[1].stage(here));
    }
    /// Whether one quantizer alone, of this kind, makes the values.
    Expr is(qconv_quantizer_kind one) const { return kind == int(one) && mix == 0.0f; }
};

/// The integer level by sign or steheaviside, 0 or 1, or by inputdorefa.
inline Expr level(const Expr &kind, const Expr &v, const Expr &levels) {
    using Halide::cast;
    using Halide::strict_float;
    // NaN is +1 by sign, as in bitorch, and level 0 by the others.
    Expr level = cast<uint32_t>(strict_float(inputdorefa_level(v, levels)));
    level = choose(kind == QCONV_STEHEAVISIDE, cast<uint32_t>(strict_float(v > 0.0f)), level);
    return choose(kind == QCONV_SIGN, cast<uint32_t>(!strict_float(v < 0.0f)), level);
}
/// The value of a level: of 0..levels, unsigned by inputdorefa, from -1 to 1 by the others.
inline Expr level_value(const Expr &kind, const Expr &level, const Expr &levels) {
    const Expr is_unsigned = kind == QCONV_INPUTDOREFA;
    const Expr share = Halide::cast<float>(Halide::cast<int32_t>(level)) / levels;
    return share * Halide::select(is_unsigned, 1.0f, 2.0f) - Halide::select(is_unsigned, 0.0f, 1.0f);
}

} // namespace qconv::quantizers
