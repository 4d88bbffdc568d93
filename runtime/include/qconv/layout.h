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

/// Sizes of the packed weights of one kernel for one layer. Index order is innermost first, as in Halide.
///   b1b1    word  [out_block, steps, rows, weight_planes, out_blocks, groups]
///   int8    int8 or int16 element [word_bits / element_bits, out_block, steps, rows, out_blocks, groups]
///   f32b1   uint8 [tables, kernel_size, Og, chunks, groups]: bit c of entry (u, k, o, z, g) is the sign of
///           channel (z * tables + u) * table_channels + c
///   f32f32  float [out_block, kernel_size, Cg, out_blocks, groups]
/// Output channel o is (o % out_block) of out_block number (o / out_block); missing ones are 0.
struct PackedShape {
    int64_t steps;      // packed paths: words along the taps
    int64_t rows;       // packed paths: words along the channels
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
    }
    if (k.tables > 0) s.chunks = ceil_div(channels_in_group, int64_t{k.tables} * k.table_channels);
    return s;
}

// A forward kernel computes, for every n, g, o, w:
//     b1b1    y = scale * (offset[o] - 2 * sum 2^(p+j) * popcount(x_p xor w_j))
//     int8    y = scale * (offset[o] + dot_factor * sum a*v + window_factor * sum a)   a: input level, v: weight
//     element f32*    y = offset[o] + sum q(x)*v
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
    // Input quantizer: kind (qconv_quantizer_kind), its top level 2^bits - 1, and a divisor:
    //   progressive_sign in training  max(1 - T, 1e-7)
    //   weightdorefa                  2 * max|tanh(x)| over the whole tensor
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

} // namespace qconv
