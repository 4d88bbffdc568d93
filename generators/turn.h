// Squares of numbers with their rows turned into columns: by interleaving rows, which takes whole vectors, where a copy
// in another order takes one number at a time.
#pragma once

#include <string>
#include <vector>

#include "Halide.h"

namespace qconv {

/// source(x, r, rest...), 0 <= x, r < side, a power of two, as turned(x * side + r, rest...).
struct Turn {
    /// Each interleaves the rows of the one before by pairs: step(pair, along, row, rest...).
    std::vector<Halide::Func> steps;
    Halide::Var pair{"pair"}, along{"along"};

    Turn() = default;
    Turn(const Halide::Func &source, int side, const std::vector<Halide::Var> &rest) {
        using namespace Halide;
        const auto with_rest = [&]<class T>(std::vector<T> coordinates) {
            coordinates.insert(coordinates.end(), rest.begin(), rest.end());
            return coordinates;
        };
        Var r("row");
        for (int rows = side / 2; rows > 0; rows /= 2) {
            Func step("turn_" + std::to_string(steps.size()));
            const Expr row = r + rows * pair;
            step(with_rest(std::vector<Var>{pair, along, r})) =
                steps.empty() ? source(with_rest(std::vector<Expr>{along, row}))
                              : steps.back()(with_rest(std::vector<Expr>{along % 2, along / 2, row}));
            steps.push_back(step);
        }
    }

    Halide::Expr turned(const Halide::Expr &at, const std::vector<Halide::Expr> &rest) const {
        std::vector<Halide::Expr> coordinates{at % 2, at / 2, 0};
        coordinates.insert(coordinates.end(), rest.begin(), rest.end());
        return steps.back()(coordinates);
    }
};

} // namespace qconv
