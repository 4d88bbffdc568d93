// The work of kernels by table lookup, for select.cpp and select_backward.cpp.
#pragma once

#include <cmath>

#include "qconv/qconv.h"

namespace qconv {

// Instructions of one step of each inner loop, as the compiled kernels have them.
constexpr double lookup = 1.5;              // an addition from memory, often across a cache line
constexpr double table_entry = 4;           // an addition and a store of a whole vector
constexpr double add_to_sum = 3;            // a load, an addition, a store
constexpr double fast_tables = 36.0 * 1024; // bytes that are looked up at full speed where L1 has 32 KB

/// What one column of a kernel by table lookup takes.
struct LookupWork {
    double values;    ///< that tables are built of
    double positions; ///< that the tables of a strip span, for each of its columns
    double sums;      ///< each takes `taps` entries from every table
    double taps;
    double sum_stores; ///< vectors of each sum that are loaded and stored for every chunk of tables
};

/// In vectors of `lanes` floats.
inline double lookup_cost(const qconv_kernel &kernel, const LookupWork &work, double lanes) {
    const double chunks = std::ceil(work.values / (double(kernel.table_channels) * kernel.tables));
    const double build = std::exp2(kernel.table_channels) * table_entry * work.positions;
    // Of few vectors a lookup, much of the time goes into finding its address; and tables should stay in L1.
    const double table_bytes = std::exp2(kernel.table_channels) * kernel.width_block * work.positions * sizeof(float);
    const double from_l2 = kernel.tables * table_bytes > fast_tables ? 1.25 : 1;
    const double addressed = lookup * (0.8 + 0.5 * lanes / kernel.width_block) * from_l2;
    const double sums = work.sums * (work.sum_stores * add_to_sum + kernel.tables * work.taps * addressed);
    return chunks * (kernel.tables * build + sums) / lanes;
}

} // namespace qconv
