// Rows of kernels by their layout, without an entry point.
#pragma once

#include "qconv/qconv.h"

namespace qconv::test {

inline qconv_kernel kernel(qconv_path path, int out_block) {
    qconv_kernel k{};
    k.name = "plain";
    k.target = "sse41";
    k.path = path;
    k.out_block = out_block;
    k.width_block = 8;
    return k;
}

inline qconv_kernel b1b1(int word_bits, int word_channels, int input_planes, int weight_planes) {
    qconv_kernel k = kernel(QCONV_PATH_B1B1, 4);
    k.word_bits = word_bits;
    k.element_bits = 1;
    k.word_channels = word_channels;
    k.input_planes = input_planes;
    k.weight_planes = weight_planes;
    return k;
}

inline qconv_kernel int8(int element_bits, int word_channels, int window_sum) {
    qconv_kernel k = kernel(QCONV_PATH_INT8, 3);
    k.word_bits = 32;
    k.element_bits = element_bits;
    k.word_channels = word_channels;
    k.window_sum = window_sum;
    return k;
}

inline qconv_kernel f32b1(int tables, int table_channels) {
    qconv_kernel k = kernel(QCONV_PATH_F32B1, 1);
    k.tables = tables;
    k.table_channels = table_channels;
    return k;
}

inline qconv_kernel depthwise(int group_block) {
    qconv_kernel k = kernel(QCONV_PATH_F32F32, 1);
    k.group_block = group_block;
    return k;
}

} // namespace qconv::test
