// The shapes every kernel is tested on, each with the reason it is here.
#pragma once

#include <cstdint>
#include <string>

#include "qconv/qconv.h"

namespace qconv::test {

struct Shape {
    int64_t in, out, kernel, stride, left, right, dilation, groups, batch, width;
    const char *reason;
    bool thin = false;    // also on emulators
    bool extreme = false; // also with all values at their limits, so that accumulators reach theirs
};

// Widths below straddle the words (8, 16, 32, 64 elements) and the blocks (8, 16, 32, 48 outputs or columns) of the
// kernels: N - 1, N, N + 1 of each.
inline constexpr Shape kShapes[] = {
    // in out  k  s  l  r  d  g  n  width
    {1, 1, 1, 1, 0, 0, 1, 1, 1, 1, "one of everything", true},
    {1, 1, 3, 1, 1, 1, 1, 1, 1, 1, "one column, a neighbour padded on each side", true},
    {3, 2, 3, 1, 0, 0, 1, 1, 2, 3, "width just enough: one column out", true},
    {5, 3, 4, 1, 0, 0, 3, 1, 1, 10, "width just enough, dilated", true},
    {7, 7, 2, 1, 1, 0, 1, 1, 1, 7, "a byte of channels less one", true},
    {8, 8, 2, 1, 0, 1, 1, 1, 1, 8, "a byte of channels, a block of outputs", true},
    {9, 9, 2, 1, 0, 1, 1, 1, 1, 9, "a byte of channels and one", true},
    {15, 15, 3, 1, 1, 1, 1, 1, 1, 15, "16 - 1 of channels, outputs and columns"},
    {16, 16, 3, 1, 1, 1, 1, 1, 1, 16, "16 of channels, outputs and columns", true},
    {17, 17, 3, 1, 1, 1, 1, 1, 1, 17, "16 + 1 of channels, outputs and columns"},
    {31, 31, 3, 1, 1, 1, 1, 1, 1, 31, "a 32-bit word of channels less one"},
    {32, 32, 3, 1, 1, 1, 1, 1, 1, 32, "a 32-bit word of channels", true},
    {33, 33, 3, 1, 1, 1, 1, 1, 1, 33, "a 32-bit word of channels and one", true},
    {63, 47, 3, 1, 1, 1, 1, 1, 1, 63, "64 - 1 channels, 48 - 1 outputs"},
    {64, 48, 3, 1, 1, 1, 1, 1, 1, 64, "64 channels, 48 outputs"},
    {65, 49, 3, 1, 1, 1, 1, 1, 1, 65, "64 + 1 channels, 48 + 1 outputs"},
    {4, 4, 5, 1, 2, 2, 1, 1, 1, 47, "48 - 1 columns, few channels, taps joined"},
    {4, 5, 5, 1, 2, 2, 1, 1, 1, 48, "48 columns, few channels", true},
    {3, 6, 5, 1, 2, 2, 1, 1, 1, 49, "48 + 1 columns, few channels"},
    {2, 23, 7, 1, 3, 3, 1, 1, 1, 127, "128 - 1 columns, two channels, prime outputs"},
    {2, 24, 8, 1, 3, 4, 1, 1, 1, 128, "128 columns, an even kernel with a byte of taps", true},
    {1, 25, 9, 1, 4, 4, 1, 1, 1, 129, "128 + 1 columns, one channel, a byte of taps and one"},
    {10, 11, 3, 1, 1, 1, 1, 1, 3, 95, "96 - 1 columns, three of a batch"},
    {11, 10, 3, 1, 1, 1, 1, 1, 1, 97, "96 + 1 columns"},
    {13, 29, 5, 1, 2, 2, 1, 1, 2, 101, "primes everywhere", true},
    {127, 13, 3, 1, 1, 1, 1, 1, 1, 37, "128 - 1 channels"},
    {128, 13, 3, 1, 1, 1, 1, 1, 1, 37, "128 channels"},
    {129, 13, 3, 1, 1, 1, 1, 1, 1, 37, "128 + 1 channels"},
    {5, 4, 1, 1, 0, 0, 1, 1, 1, 19, "kernel size 1", true},
    {40, 16, 1, 1, 0, 0, 1, 1, 1, 98, "kernel size 1, a speech layer"},
    {24, 32, 1, 2, 0, 0, 1, 1, 1, 49, "kernel size 1, stride 2: a shortcut", true},
    {12, 9, 1, 1, 2, 3, 1, 1, 1, 11, "kernel size 1 with padding: whole columns of padding", true},
    {16, 24, 9, 2, 3, 4, 1, 1, 1, 98, "stride 2, asymmetric padding, even width", true},
    {24, 24, 9, 1, 4, 4, 1, 1, 1, 49, "nine taps"},
    {20, 8, 3, 2, 1, 1, 1, 1, 2, 33, "stride 2, odd width"},
    {20, 8, 3, 2, 0, 1, 1, 1, 1, 34, "stride 2, the last column unread"},
    {6, 8, 2, 5, 0, 0, 1, 1, 1, 41, "stride above the kernel: columns skipped", true},
    {6, 8, 3, 7, 4, 2, 1, 1, 1, 50, "stride above the kernel, padded"},
    {9, 7, 4, 3, 2, 1, 2, 1, 2, 40, "even kernel, stride 3, dilation 2, asymmetric", true},
    {17, 5, 6, 1, 0, 5, 1, 1, 1, 21, "even kernel, causal the other way: right padding only"},
    {17, 5, 6, 1, 5, 0, 1, 1, 1, 21, "causal: left padding only", true},
    {8, 8, 3, 1, 64, 64, 64, 1, 1, 30, "dilation above the width: at most one tap inside", true},
    {8, 8, 2, 1, 0, 0, 29, 1, 1, 30, "dilation just inside the width"},
    {32, 16, 3, 1, 4, 4, 4, 1, 1, 61, "dilation 4"},
    {32, 16, 2, 1, 128, 0, 128, 1, 1, 150, "dilation 128: a WaveNet layer"},
    {5, 5, 3, 1, 9, 9, 1, 1, 1, 4, "padding above the width: columns with no tap inside", true},
    {5, 5, 7, 1, 6, 6, 1, 1, 1, 2, "kernel above the width: both ends reach over in every column", true},
    {33, 8, 5, 2, 11, 3, 3, 1, 2, 9, "all of stride, dilation, padding and a tail"},
    {3, 4, 129, 1, 64, 64, 1, 1, 1, 140, "129 taps"},
    {1, 2, 129, 4, 0, 0, 1, 1, 2, 300, "129 taps, one channel, stride 4", true},
    {4, 4, 3, 1, 1, 1, 1, 2, 2, 20, "two groups", true},
    {66, 34, 3, 1, 1, 1, 1, 2, 1, 20, "two groups of a word and one"},
    {24, 36, 5, 2, 2, 2, 1, 3, 1, 31, "three groups, stride 2", true},
    {64, 64, 3, 1, 1, 1, 1, 64, 1, 101, "depthwise", true},
    {17, 17, 9, 1, 4, 4, 1, 17, 2, 50, "depthwise, more taps than a byte"},
    {17, 17, 33, 1, 16, 16, 1, 17, 1, 50, "depthwise, more taps than a 32-bit word", true},
    {10, 10, 3, 2, 2, 2, 2, 10, 1, 33, "depthwise, stride 2, dilation 2"},
    {6, 18, 5, 1, 2, 2, 1, 6, 1, 27, "depthwise with multiplier 3", true},
    {4, 64, 3, 1, 1, 1, 1, 4, 1, 27, "depthwise with multiplier 16"},
    {8, 8, 5, 3, 1, 0, 1, 4, 3, 29, "four groups of two, stride 3"},
    {8, 16, 3, 1, 1, 1, 1, 1, 0, 20, "an empty batch", true},
    {4, 6, 3, 1, 1, 1, 1, 1, 7, 5, "more batch than width"},
    {64, 64, 3, 1, 0, 0, 1, 1, 1, 3, "streaming: one column out", true},
    {70, 33, 3, 1, 0, 0, 2, 1, 2, 6, "two columns out, a tail of channels and outputs", true},
    {256, 10, 1, 1, 0, 0, 1, 1, 64, 1, "a linear layer on a batch", true},
    {36, 65, 2, 1, 0, 0, 1, 1, 3, 5, "four columns out, a block of outputs and one"},
    {24, 40, 5, 3, 2, 2, 1, 2, 2, 17, "six columns out, stride 3, two groups"},
    {33, 17, 3, 1, 1, 1, 1, 1, 1, 10, "ten columns"},
    {33, 17, 3, 1, 1, 1, 1, 1, 1, 13, "thirteen columns"},
    {16, 9, 3, 1, 1, 1, 1, 1, 1, 1031, "a long prime width: several tiles of columns"},
    {2, 3, 3, 1, 1, 1, 1, 1, 1, 4099, "longer than any tile of columns", true},
    {5, 7, 4, 3, 3, 2, 1, 1, 2, 1537, "stride 3 over several tiles of columns"},
    {20, 33, 3, 1, 1, 1, 1, 1, 37, 7, "a large batch of short rows"},
    {64, 1, 3, 1, 1, 1, 1, 1, 1, 50, "one output channel"},
    {3, 130, 3, 1, 1, 1, 1, 1, 1, 21, "many outputs, few channels"},
    {64, 64, 3, 1, 1, 1, 1, 1, 1, 500, "a middling layer"},
    {256, 256, 3, 1, 4, 4, 4, 1, 1, 1000, "a large layer: the widest tiles"},
    // Byte counters overflow past 255 / 8 = 31 steps of a byte; int16 sums of pairs past 1 pair of 255 * 127.
    {248, 3, 1, 1, 0, 0, 1, 1, 1, 17, "31 bytes: the last step before byte counters are widened", true, true},
    {256, 3, 1, 1, 0, 0, 1, 1, 1, 17, "32 bytes: one step past", true, true},
    {31, 3, 8, 1, 3, 4, 1, 1, 1, 17, "31 channels of 8 taps", false, true},
    {1366, 2, 3, 1, 1, 1, 1, 1, 1, 9, "4,098 products", true, true},
    {4096, 2, 1, 1, 0, 0, 1, 1, 1, 9, "4,096 channels", false, true},
    {1, 1, 4097, 1, 0, 0, 1, 1, 1, 4105, "4,097 taps of one channel", false, true},
    {520, 4, 129, 1, 10, 3, 1, 1, 1, 140, "67,080 products: past 2^31 for 8 x 8 bits, past 2^16 for signs", false,
     true},
    {2048, 2, 16, 1, 0, 0, 1, 1, 1, 24, "32,768 products of 255 * 255: just under 2^31", false, true},
};
inline constexpr size_t kShapeCount = sizeof(kShapes) / sizeof(kShapes[0]);

inline void apply(const Shape &shape, qconv_layer_config &config) {
    config.in_channels = shape.in;
    config.out_channels = shape.out;
    config.kernel_size = shape.kernel;
    config.stride = shape.stride;
    config.pad_left = shape.left;
    config.pad_right = shape.right;
    config.dilation = shape.dilation;
    config.groups = shape.groups;
}

inline std::string describe(const Shape &s) {
    return "x [" + std::to_string(s.batch) + ", " + std::to_string(s.in) + ", " + std::to_string(s.width) + "], " +
           std::to_string(s.out) + " out, kernel " + std::to_string(s.kernel) + ", stride " + std::to_string(s.stride) +
           ", padding [" + std::to_string(s.left) + ", " + std::to_string(s.right) + "], dilation " +
           std::to_string(s.dilation) + ", groups " + std::to_string(s.groups) + " (" + s.reason + ")";
}

} // namespace qconv::test
