// What a tuning run may vary in our own schedules: for each generator, its knobs and their values. Pure data; the
// defaults are the rows of kernels.json, which also set what is no number (path, word layout), so that every row that
// serves a layer is a starting point.
#pragma once

#include <string_view>
#include <vector>

namespace qconv::schedules {

/// How a knob's values are meant.
enum class KnobUnit {
    Plain,  ///< as they stand
    Vectors ///< in vectors of the target's 32-bit lanes: 2 is 32 on AVX-512, 8 on SSE4.1 or NEON
};

/// One generator param, or "tile_width", which is the runtime's: positions of one task at most, and with it how a row
/// is split among threads; 0 leaves it to the runtime.
struct Knob {
    std::string_view name;
    KnobUnit unit = KnobUnit::Plain;
    std::vector<int> values; ///< ascending
};

/// The knobs of one generator. Two of them multiply to the vectors that are summed at once and ought to stay in
/// registers.
struct KnobSpace {
    std::string_view generator;
    std::vector<Knob> knobs;
    std::string_view accumulators_a, accumulators_b; ///< "": no such product
};

/// Beyond this many vectors of sums at once, code grows and registers spill on every target: 16 to 32 are there.
inline constexpr int most_accumulators = 48;

/// Bytes of one lookup table at most: with its fellows it must stay in L1 beside what it serves.
inline constexpr int most_table_entries = 256;

inline const std::vector<KnobSpace> &knob_spaces() {
    using enum KnobUnit;
    static const Knob tile{"tile_width", Plain, {0, 64, 128, 256, 512, 1024, 2048}};
    static const std::vector<KnobSpace> spaces = {
        // Output channels and positions in registers; words per output come from the row.
        {"forward_b1b1",
         {{"out_block", Plain, {1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32}},
          {"width_block", Vectors, {1, 2, 3, 4, 6}},
          tile},
         "out_block",
         "width_block"},
        {"forward_int8",
         {{"out_block", Plain, {1, 2, 4, 6, 8, 10, 12, 16, 20, 24}}, {"width_block", Vectors, {1, 2, 3, 4, 6}}, tile},
         "out_block",
         "width_block"},
        // G = table_channels values an addition, against 2^G entries to build for each strip of width_block.
        {"forward_f32b1",
         {{"table_channels", Plain, {3, 4, 5, 6, 7}},
          {"tables", Plain, {1, 2, 3, 4, 6, 8}},
          {"width_block", Vectors, {1, 2, 3, 4, 6}},
          tile},
         "",
         ""},
        {"forward_f32f32",
         {{"out_block", Plain, {1, 2, 4, 6, 8, 12, 16, 20, 24}}, {"width_block", Vectors, {1, 2, 3, 4, 6}}, tile},
         "out_block",
         "width_block"},
        // Groups side by side are the row's: a vector of them.
        {"forward_depthwise", {{"width_block", Vectors, {1, 2}}, tile}, "", ""},
        {"grad_input_f32b1",
         {{"table_channels", Plain, {3, 4, 5, 6, 7}},
          {"tables", Plain, {1, 2, 3, 4, 6, 8}},
          {"width_block", Vectors, {1, 2, 3, 4, 6}},
          tile},
         "",
         ""},
        {"grad_input_f32f32",
         {{"out_block", Plain, {1, 2, 4, 6, 8, 12, 16, 20, 24}}, {"width_block", Vectors, {1, 2, 3, 4, 6}}, tile},
         "out_block",
         "width_block"},
        {"grad_input_depthwise", {{"width_block", Vectors, {1, 2}}, tile}, "", ""},
        // Tables of positions; width_block is always table_channels * tables here.
        {"grad_weight_f32b1",
         {{"table_channels", Plain, {4, 5, 6, 7}},
          {"tables", Plain, {2, 3, 4, 6}},
          {"out_block", Vectors, {1, 2, 3, 4}},
          tile},
         "",
         ""},
        {"grad_weight_f32f32",
         {{"out_block", Vectors, {1, 2, 3, 4}},
          {"channel_block", Plain, {1, 2, 3, 4, 6, 8, 12}},
          {"tap_block", Plain, {1, 2, 3, 4, 5, 8}},
          tile},
         "channel_block",
         "tap_block"},
        {"grad_weight_rows",
         {{"tap_block", Plain, {1, 2, 3, 4, 6, 8, 12}}, {"width_block", Vectors, {1, 2, 4}}, tile},
         "",
         ""},
    };
    return spaces;
}

} // namespace qconv::schedules
