// Tables of sums, for real values times bits: one addition serves as many multiply-accumulates as the table has
// values.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "Halide.h"

namespace qconv {

/// The sums and the two tables of half as many values each that they come from.
struct LookupTable {
    Halide::Func table;
    std::vector<Halide::Func> halves;
};

/// table(before..., entry, after...): bit b of entry set adds value(b), clear subtracts it (or `share` times it), 0 <=
/// b < `bits`. value(b) may mention `before` and `after`. The halves are summed first, so that an entry costs one
/// addition.
inline LookupTable build_table(int bits, const std::vector<Halide::Var> &before, const Halide::Var &entry,
                               const std::vector<Halide::Var> &after, const std::function<Halide::Expr(int)> &value,
                               const Halide::Expr &share = Halide::Expr()) {
    using namespace Halide;
    LookupTable result{Func("table"), {}};
    const auto arguments = [&]<class T>(const T &middle) {
        std::vector<T> list(before.begin(), before.end());
        list.push_back(middle);
        list.insert(list.end(), after.begin(), after.end());
        return list;
    };
    const auto half = [&](const std::string &name, int from, int count) {
        Func sums(name);
        Expr sum;
        for (int b = 0; b < count; b++) {
            const Expr set = value(from + b), clear = share.defined() ? set * share : set;
            const Expr term = select(((entry >> b) & 1) != 0, set, -clear);
            sum = sum.defined() ? sum + term : term;
        }
        sums(arguments(entry)) = sum;
        result.halves.push_back(sums);
        return sums;
    };
    const int low_bits = bits / 2;
    Func low = half("low", 0, low_bits), high = half("high", low_bits, bits - low_bits);
    const Expr low_entry = entry & ((1 << low_bits) - 1), high_entry = entry >> low_bits;
    result.table(arguments(entry)) = low(arguments(low_entry)) + high(arguments(high_entry));
    return result;
}

} // namespace qconv
