// The polynomial that the runtime and the generators take tanh by, near 0: the same for weights and inputs.
#pragma once

namespace qconv {

/// Up to this magnitude tanh_series is within 1 unit in the last place of float32.
constexpr float tanh_series_end = 0.625F;

/// tanh(v) for |v| <= tanh_series_end. Number: float, or an expression of it. Coefficients: least largest error of the
/// odd polynomial of degree 11 relative to tanh, fitted by us.
template <typename Number>
Number tanh_series(const Number &v) {
    const Number square = v * v;
    Number series = square * -0.0057170386F + 0.020650581F;
    series = series * square + -0.053743497F;
    series = series * square + 0.13331491F;
    series = series * square + -0.33333284F;
    return v + v * square * series;
}

} // namespace qconv
