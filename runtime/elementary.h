// Elementary functions of float32 in operations that compilers turn into vectors, for loops over whole tensors.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace qconv {

/// e^v for v <= 0, within 3 units in the last place; below -87, where that would be denormal, 0. NaN gives NaN.
inline float exp_of_negative(float v) {
    constexpr float log2_e = 1.442695041F, ln2_high = 0.693145752F, ln2_low = 1.42860677e-6F;
    constexpr float magic = 12582912.0F; // 1.5 * 2^23: adding it rounds to a whole number, which its low bits then hold
    const float bounded = v < -87.0F ? -87.0F : v;
    const float whole = bounded * log2_e + magic;
    const float count = whole - magic;
    const float r = bounded - count * ln2_high - count * ln2_low; // |r| <= ln2 / 2
    // 1 + r + r^2 times a polynomial of least largest error, fitted by us; in pairs, which do not wait for each other.
    const float square = r * r;
    const float high = 0.0083125178F * r + 0.041890156F, low = 0.16667114F * r + 0.49999231F;
    const float series = (high * square + low) * square + r + 1.0F;
    const auto exponent = std::bit_cast<std::uint32_t>(whole) << 23; // all but its low bits leave the word
    const float power = std::bit_cast<float>(std::bit_cast<std::uint32_t>(1.0F) + exponent);
    return v < -87.0F ? 0.0F : series * power;
}

/// Up to this magnitude tanh_series is within 1 unit in the last place of float32.
constexpr float tanh_series_end = 0.625F;

/// tanh(v) for |v| <= tanh_series_end: the odd polynomial of degree 11 of least largest relative error, fitted by us.
inline float tanh_series(float v) {
    const float square = v * v;
    float series = square * -0.0057170386F + 0.020650581F;
    series = series * square + -0.053743497F;
    series = series * square + 0.13331491F;
    series = series * square + -0.33333284F;
    return v + v * square * series;
}

/// tanh(v), within 3 units in the last place.
inline float tanh_of(float v) {
    const float size = std::fabs(v), e = exp_of_negative(-2 * size), far = (1 - e) / (1 + e);
    return size < tanh_series_end ? tanh_series(v) : std::copysign(far, v);
}

} // namespace qconv
