// Fingerprints of floats: whether weights are still what they were, without keeping a copy of them.
//
// Sixty-four lanes of 32 bits take the values in turn, and every step is one-to-one in the value and in the lane. So a
// change of one value always changes the fingerprint, whichever bits it has; a change of several goes unseen with a
// probability of 2^-32 at most, and of 2^-64 where it reaches more than one lane. Bits count, not values: 0.0 and -0.0
// differ, and a NaN is like itself.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qconv {

/// Of `count` values.
std::uint64_t fingerprint(const float *values, std::size_t count);

/// Rows that lie one after another, without gaps.
struct RowsView {
    const float *values;
    std::size_t rows;
    std::size_t row_values;
};

/// Values that fingerprint_sample reads together: a cache line.
constexpr std::size_t sample_values = 16;

/// Of a sample: at least sample_values neighbours of every row, and every column in some row. Rows that are no longer
/// are read whole. Example, 4 rows of 64 values: row 0 gives values 0 to 15, row 1 gives 16 to 31, and so on.
std::uint64_t fingerprint_sample(const RowsView &view);

} // namespace qconv
