// What generators, schedules and the runtime must agree on: packed layouts, and the arguments of a forward kernel.
// Stated once, here; nothing below depends on Halide.
//
// Groups. A kernel sees x, weight and y with the channels split into (channel in group, group):
//     Cg = in_channels / groups, Og = out_channels / groups, channel = g * Cg + c, output channel = g * Og + o.
//
// Words (paths b1b1 and int8). One word joins `word_channels` = S channels of T = word_bits / (element_bits * S)
// consecutive taps. Element e of a word sits at bits [e * element_bits, (e + 1) * element_bits), and
//     e = t * S + c      for tap t of the word and channel c of the word.
//   - T == 1 (S fills the word): row r of a tap holds channels r * S .. r * S + S - 1; steps = kernel_size.
//   - T >  1 (needs Cg <= S):    step k holds taps k * T .. k * T + T - 1, one row; steps = ceil(kernel_size / T).
// With vector_words = V > 1, word row * steps + k of a window is word i % V of vector i / V, whose words lie together.
// Elements past Cg or past kernel_size are 0 in the weights and, for b1b1, in the input words too.
//
// Sign encoding: bit 1 is +1, bit 0 is -1. Example, word_bits 8, S = 8, channels 0..7 = + - - + + - - - :
//     bits 7..0 = 00011001, the word is 0x19.
//
// Bit-planes. A value of B bits is the integer level q in 0..2^B-1; plane p holds bit p of q. Read as signs, the planes
// give the odd integer u = sum_p 2^p * (+-1) = 2q - (2^B - 1), and
//     sum u*v = Ma*Mw*n - 2 * sum_{p,j} 2^(p+j) * popcount(x_p xor w_j),   Ma = 2^A - 1, Mw = 2^W - 1, n elements.
#pragma once

#include <cstdint>

#include "qconv/qconv.h"

namespace qconv {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/// Taps that one word of this kernel joins (T above).
constexpr int64_t word_taps(const qconv_kernel &k) {
    return k.word_bits / (k.element_bits * k.word_channels);
}

/// Words of one window that a vector holds (V above), at least 1.
constexpr int64_t vector_words(const qconv_kernel &k) {
    return k.vector_words > 1 ? k.vector_words : 1;
}

/// Whether sums of words are in 16 bits, at most short_sum_words of them, before they are added up in 32: on path int8
/// where words are two elements of 8 bits. Such kernels serve layers of which no such sum can leave 16 bits:
///     2 * short_sum_words * (greatest a) * (greatest |v|) < 2^15, in the terms of "A forward kernel computes" below.
constexpr int short_sum_words = 64;
constexpr bool sums_short(int word_bits, int element_bits) {
    return word_bits == 16 && element_bits == 8;
}
constexpr bool sums_short(const qconv_kernel &k) {
    return sums_short(k.word_bits, k.element_bits);
}

/// Sizes of the packed weights of one kernel for one layer. Index order is innermost first, as in Halide.
///   b1b1    word  [out_block, steps, rows, weight_planes, out_blocks, groups], or with vector_words > 1
///           word  [vector_words, out_block, vectors, weight_planes, out_blocks, groups], missing words being 0
///   int8    int8 or int16 element [word_bits / element_bits, out_block, steps, rows, out_blocks, groups]
///   f32b1   uint8 [tables, kernel_size, Og, chunks, groups]: bit c of entry (u, k, o, z, g) is the sign of
///           channel (z * tables + u) * table_channels + c
///   f32f32  float [out_block, kernel_size, Cg, out_blocks, groups], or with group_block = B > 1
///           float [B, kernel_size, ceil(groups / B)]: group g is (g % B) of block number (g / B); missing ones are 0
/// Output channel o is (o % out_block) of out_block number (o / out_block); missing ones are 0.
struct PackedShape {
    int64_t steps;      // packed paths: words along the taps
    int64_t rows;       // packed paths: words along the channels
    int64_t vectors;    // b1b1: steps * rows words, vector_words a vector
    int64_t out_blocks; // ceil(Og / out_block)
    int64_t chunks;     // f32b1: ceil(Cg / (tables * table_channels))
};

constexpr PackedShape packed_shape(const qconv_kernel &k, int64_t channels_in_group, int64_t out_in_group,
                                   int64_t kernel_size) {
    PackedShape s{};
    s.out_blocks = ceil_div(out_in_group, k.out_block);
    if (k.word_bits > 0) {
        const int64_t taps = word_taps(k);
        s.steps = ceil_div(kernel_size, taps);
        s.rows = taps == 1 ? ceil_div(channels_in_group, k.word_channels) : 1;
        s.vectors = ceil_div(s.steps * s.rows, vector_words(k));
    }
    if (k.tables > 0) s.chunks = ceil_div(channels_in_group, int64_t{k.tables} * k.table_channels);
    return s;
}

// A forward kernel computes, for every n, g, o, w:
//     b1b1    y = scale * (offset[o] - 2 * sum 2^(p+j) * popcount(x_p xor w_j))
//     int8    y = scale * (offset[o] + dot_factor * sum a*v + window_factor * sum a)
//             a: input level less level_offset, v: weight element
//     f32*    y = offset[o] + sum q(x)*v
// all in int32 (packed paths) or float, then, on the packed paths, adds at the edge columns what padding with the
// representable `pad_level` instead of pad_value left out:
//     y += pad_delta * (sum of the weights of the taps that fall outside),
// with edge[k] = sum over taps k' < k and channels c of qw(c, k', o), in output units. Columns w < edge_left reach over
// the left end, columns w >= edge_right over the right end; edge_left = 0 and edge_right = width_out switch this off.
//
// Arguments, in order, as Halide's argv: pointers to each value (buffers: the halide_buffer_t itself).
enum class ForwardArg : int {
    UserContext,  // void *: a CallContext (runtime/workspace.h)
    X,            // float   [width, Cg, groups, batch]
    Weight,       // see PackedShape
    Offset,       // int32 (b1b1, int8) or float (f32b1, f32f32)   [Og, groups]
    Edge,         // float   [kernel_size + 1, Og, groups]; b1b1 and int8 read it only at edge columns
    KernelSize,   // int32
    Stride,       // int32
    Dilation,     // int32
    PadLeft,      // int32
    TileWidth,    // int32   output positions per task; a multiple of width_block
    EdgeLeft,     // int32   packed paths, see above
    EdgeRight,    // int32
    PadLevel,     // int32   packed paths: the level stored at padded positions
    DotFactor,    // int32   int8
    WindowFactor, // int32   int8, kernels with window_sum
    Scale,        // float   packed paths
    PadDelta,     // float   packed paths: pad_value - value(pad_level)
    PadValue,     // float   f32 paths
    // Input quantizer: kind (qconv_quantizer_kind), its top level 2^bits - 1, and the divisor max(1 - T, 1e-7) of
    // progressive_sign in training. weightdorefa is applied before: its values come with QCONV_IDENTITY or QCONV_SIGN.
    // b1b1 and int8 read the first quantizer; f32f32 mixes both: (1 - mix) * q + mix * next. f32b1 does as f32f32.
    Quantizer,   // int32
    Levels,      // float
    Divisor,     // float
    Next,        // int32
    NextLevels,  // float
    NextDivisor, // float
    Mix,         // float
    Y,           // float   [width_out, Og, groups, batch]
    Count
};

// Packed signs between the layers of a network: uint32 [width, words, batch], words = ceil(channels / 32). Bit b of
// word v is channel 32 v + b, whatever the groups; 1 is +1, and bits past the channels are 0.
constexpr int64_t sign_words(int64_t channels) {
    return ceil_div(channels, 32);
}

// A forward kernel from packed signs computes the sums of b1b1. To float it goes on as ForwardArg says. To packed
// signs,
//     sign[o, w] = (sum of popcount(x xor w) <= limit[o, case]) xor flip,
// where case is 0 at columns inside x; k at columns before edge_left whose first k taps fall outside; kernel_size + 1 +
// k at columns from edge_right on whose taps from the k-th on do. Without edge columns there is case 0 only.
enum class BitsArg : int {
    UserContext, // void *: a CallContext
    X,           // uint32  [width, words, batch]
    Weight,      // see PackedShape
    Offset,      // int32   [Og, groups]: to float
    Edge,        // float   [kernel_size + 1, Og, groups]: to float
    Limit,       // int32   [out_block * out_blocks, cases, groups]: to signs; -1 for channels that are not there
    Flip,        // uint32  [ceil(Og / 32), groups]: to signs; bits as in y, 0 for channels that are not there
    KernelSize,  // int32, as in ForwardArg; and so on
    Stride,
    Dilation,
    Channels, // int32   Cg
    PadLeft,
    TileWidth,
    EdgeLeft,
    EdgeRight,
    PadLevel,
    Scale,    // float   to float
    PadDelta, // float   to float
    Y, // float   [width_out, Og, groups, batch], or uint32 [width_out, Og / 32, groups, batch], where groups is 1
       //         or Og a multiple of 32: packed signs, seen group by group
    Count
};

// Packs signs: sign[c] = (x[c] * rule[0, c] < rule[1, c]) xor flip.
enum class ToBitsArg : int {
    UserContext, // void *: a CallContext
    X,           // float   [width, channels, batch]
    Rule,        // float   [2, 32 * words]; rule[1, c] is -infinity for channels that are not there
    Flip,        // uint32  [words]; 0 for channels that are not there
    Y,           // uint32  [width, words, batch]: packed signs
    Count
};

// Saved state of a layer whose input becomes levels of B bits (1: sign) by a quantizer of derivative 0 or 1: uint32
// [words, B + 1, Cg, groups, batch], words = ceil(width / 32). Bit b of word v is position 32 v + b; plane p < B has
// bit p of the level (of a sign: 1 is +1), plane B is 1 where the gradient passes. Bits past the width are 0.
constexpr int64_t state_words(int64_t width) {
    return ceil_div(width, 32);
}
constexpr int state_planes(int level_bits) {
    return level_bits + 1;
}

// grad_input. Position i = j * stride + e of x (e: its phase, 0 <= e < stride) receives, for every tap k that reaches
// it, i.e. (e + pad_left - k * dilation) divisible by stride,
//     gx[i, c] = factor(x[i, c]) * sum over k, o of gy[j + shift_k, o] * qw(o, c, k),
//     shift_k = (e + pad_left - k * dilation) / stride.
// Taps are sorted by phase, ascending k in a phase: entry t of TapShift has the shift, and phase e owns the entries
// PhaseStart[e] <= t < PhaseStart[e + 1]. (With stride 1 there is one phase and t is k.) gy is 0 outside
// 0..width_out-1.
//
// Packed weights, T = kernel_size entries in the order of TapShift:
//   f32b1   uint8 [tables, T, Cg, chunks, groups]: bit b of entry (u, t, c, z, g) is the sign of output channel
//           (z * tables + u) * table_channels + b; chunks = ceil(Og / (tables * table_channels))
//   f32f32  float [out_block, T, Og, blocks, groups]: input channel c is (c % out_block) of out_block number
//           (c / out_block); missing ones are 0; blocks = ceil(Cg / out_block). With group_block = B > 1 float
//           [B, T, ceil(groups / B)], as in the forward pass
//
// An operand that a call lacks keeps its extents, with strides 1, 0, 0, ...: one element of any value stands for all on
// the CPU, none on devices. Autoscheduled kernels may read that element, and choose another value then; the others do
// not.
enum class Surrogate : int {
    One,       // factor 1; neither x nor the state is needed
    FromState, // factor 1 or 0, the last plane of the state
    FromInput, // factor [|x| <= threshold] * ((1 - mix) * dq(x) + mix * dnext(x))
    Within,    // factor [|x| <= threshold]
};

enum class GradInputArg : int {
    UserContext, // void *: a CallContext
    GradOutput,  // float   [width_out, Og, groups, batch]
    Weight,      // see above
    TapShift,    // int32   [kernel_size]
    PhaseStart,  // int32   [stride + 1]
    X,           // float   [width, Cg, groups, batch]; lacking unless FromInput or Within
    State,       // uint32  [words, planes, Cg, groups, batch]; lacking unless FromState
    Stride,      // int32
    TileWidth,   // int32   columns j per task; a multiple of width_block
    ShiftMin,    // int32   least and greatest of TapShift
    ShiftMax,    // int32
    Factor,      // int32   a Surrogate
    Threshold,   // float   +infinity would still stop NaN: NaN switches the comparison off
    Quantizer,   // int32   FromInput: whose derivative is taken; QCONV_IDENTITY stands for all of derivative 1
    Beta,        // float   swishsign
    Next,        // int32
    NextBeta,    // float
    Mix,         // float
    GradInput,   // float   [stride, columns, Cg, groups, batch], columns = ceil(width / stride): the tensor [width, Cg,
                 //         groups, batch] seen with strides 1, stride, width, ...; nothing past the width is written
    Count
};

// grad_weight. With xq the quantized and padded input, for every o, c, k:
//     gw[o, c, k] = factor[o, c, k] * sum over n, w of gy[n, o, w] * xq[n, c, w * stride + k * dilation]
// The input comes from the state's levels (FromState), or from x (FromInput). Path f32b1 takes inputs of one bit: it
// pads with a clear one, which stands for -1 or, by inputdorefa, for 0, and adds pad_delta (pad_value less that) times
// the sum of gy over the outputs whose tap k falls outside x. The factor is the derivative of the weight's quantizer.
enum class GradWeightArg : int {
    UserContext,  // void *: a CallContext
    GradOutput,   // float   [width_out, Og, groups, batch]
    X,            // float   [width, Cg, groups, batch]; lacking with a state
    State,        // uint32  [words, planes, Cg, groups, batch]; lacking unless FromState
    Factor,       // float   [kernel_size, Cg, Og, groups] (f32b1: [kernel_size * Cg, 1, Og, groups]); unless HasFactor:
                  //         GradWeight, on devices nothing
    KernelSize,   // int32
    Stride,       // int32
    Dilation,     // int32
    PadLeft,      // int32
    TileWidth,    // int32   output positions summed per pass, on devices per piece of all samples laid end to end,
                  //         each row rounded up to width_block; a multiple of width_block
    TileChannels, // int32   input channels of a group per task; f32b1: up to whole squares of the result
    EdgeLeft,     // int32   f32b1: as in ForwardArg, for pad_delta
    EdgeRight,    // int32
    PadDelta,     // float   f32b1
    PadValue,     // float   f32f32
    Source,       // int32   a Surrogate: FromState, FromInput or, path f32f32, One: x as it is
    Quantizer,    // int32   input quantizer, as in ForwardArg; with a state only its first, and Levels, are read
    Levels,       // float
    Divisor,      // float
    Next,         // int32
    NextLevels,   // float
    NextDivisor,  // float
    Mix,          // float
    HasFactor,    // int32   0: the factor is 1
    GradWeight,   // float   as Factor
    Count
};

// save_state.
enum class SaveStateArg : int {
    UserContext, // void *: a CallContext
    X,           // float   [width, in_channels * batch]
    Quantizer,   // int32   QCONV_SIGN, QCONV_STEHEAVISIDE or QCONV_INPUTDOREFA
    Levels,      // float   as in ForwardArg
    Threshold,   // float   NaN: none. steheaviside also masks |x| > 1
    State,       // uint32  [words, planes, in_channels * batch]
    Count
};

// grad_bias, on devices. gb[o] = sum over n, w of gy[n, o, w].
enum class GradBiasArg : int {
    UserContext, // void *: a CallContext
    GradOutput,  // float   [width_out, out_channels, batch]
    GradBias,    // float   [out_channels]
    Count
};

} // namespace qconv
