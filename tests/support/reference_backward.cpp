// The backward half of the oracle.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>

#include "reference.h"
#include "reference_detail.h"

namespace qconv::reference {

using namespace detail;

namespace {

constexpr int kGridBits = 8;

/// A surrogate derivative, and how far a float32 evaluation of it may be from that.
struct Factor {
    double value = 1, error = 0;
};

Factor surrogate_factor(const qconv_quantizer &q, float v) {
    const double x = double{v}, size = std::abs(x);
    switch (q.kind) {
        case QCONV_APPROXSIGN: {
            const double value = size <= 1 ? 2 - 2 * size : 0;
            return {value, kUnit * value};
        }
        case QCONV_SWISHSIGN: {
            const double beta = double{q.beta}, t = beta * x;
            // cosh leaves double beyond 710; the derivative is 0 in both precisions long before.
            if (std::abs(t) > 700 && std::isfinite(x)) return {0, beta * 0x1p-120};
            const double scale = beta / (1 + std::cosh(t));
            return {scale * (2 - t * std::tanh(t / 2)),
                    (16 + 2 * std::abs(t)) * kUnit * scale * (2 + std::abs(t)) + beta * 0x1p-120};
        }
        case QCONV_STEHEAVISIDE:
            return {size <= 1 ? 1.0 : 0.0, 0};
        default:
            return {};
    }
}

Factor mixed_factor(const qconv_quantizer &first, const qconv_quantizer &next, float mix, float v) {
    if (!(mix > 0)) return surrogate_factor(first, v);
    if (mix == 1.0f) return surrogate_factor(next, v);
    const Factor a = surrogate_factor(first, v), b = surrogate_factor(next, v);
    const double rest = 1 - double{mix}, share = double{mix};
    const bool unit = a.value == b.value && a.value == 1 && a.error == 0 && b.error == 0;
    const double roundings = unit && rest + share == 1 && static_cast<double>(1.0f - mix) == rest ? 0 : 4 * kUnit;
    return {rest * a.value + share * b.value,
            rest * a.error + share * b.error + roundings * (rest * std::abs(a.value) + share * std::abs(b.value))};
}

Factor input_factor(const qconv_layer_config &config, float v) {
    if (config.kind != QCONV_LAYER_QCONV1D) return {};
    const float threshold = config.gradient_cancellation_threshold;
    if (!std::isnan(threshold) && !(std::abs(v) <= threshold)) return {0, 0};
    return mixed_factor(config.input_quantization, config.input_next, config.input_mix, v);
}

Factor weight_factor(const qconv_layer_config &config, float v) {
    if (config.kind == QCONV_LAYER_CONV1D) return {};
    return mixed_factor(config.weight_quantization, config.weight_next, config.weight_mix, v);
}

/// Values of a tensor with, beside each, what roundings in it are relative to.
struct Operand {
    std::vector<double> value, magnitude;
};

Operand operand(Quantized q) {
    for (double &level : q.level)
        level /= q.top;
    return {std::move(q.level), std::move(q.magnitude)};
}

/// Least p in 0..kGridBits such that all values are multiples of 2^-p, with the largest of them; p < 0 if there is
/// none.
struct Grid {
    int bits = 0;
    double largest = 0;

    template <typename Value>
    void add(Value v) {
        const double value = static_cast<double>(v);
        while (bits >= 0 && std::ldexp(value, bits) != std::nearbyint(std::ldexp(value, bits)))
            bits = bits < kGridBits ? bits + 1 : -1000;
        largest = std::max(largest, std::abs(value));
    }
};

bool exact_sums(const Grid &a, const Grid &b, int64_t terms) {
    if (a.bits < 0 || b.bits < 0) return false;
    return std::ldexp(4 * a.largest * b.largest * static_cast<double>(terms), a.bits + b.bits) < 0x1p24;
}

template <typename Values>
Grid grid_of(const Values &values) {
    Grid grid;
    for (const auto v : values)
        grid.add(v);
    return grid;
}

struct Sum {
    double value = 0, magnitude = 0;
};

void push(Expected &expected, const Factor &factor, const Sum &sum, bool exact, int64_t terms) {
    const auto n = static_cast<double>(terms);
    const double error = exact ? 0 : gamma(n + 8) * sum.magnitude + n * 0x1p-149;
    const double size = std::abs(factor.value), product = factor.value * sum.value;
    const double rounding = size == 0 || size == 1 ? 0 : kUnit * std::abs(product);
    expected.y.push_back(product);
    expected.tolerance.push_back(size * error + factor.error * (std::abs(sum.value) + error) + rounding);
}

/// Four sums at once, since each addition waits for the one before it.
Sum dot(const double *a, const double *a_magnitude, const double *b, int64_t count) {
    double value[4] = {}, magnitude[4] = {};
    for (int64_t i = 0; i < count; ++i) {
        value[i % 4] += a[i] * b[i];
        magnitude[i % 4] += a_magnitude[i] * std::abs(b[i]);
    }
    return {value[0] + value[1] + value[2] + value[3], magnitude[0] + magnitude[1] + magnitude[2] + magnitude[3]};
}

template <typename Each>
void for_elements(std::span<const int64_t> elements, int64_t count, const Each &each) {
    if (elements.empty()) {
        for (int64_t i = 0; i < count; ++i)
            each(i);
    } else {
        for (const int64_t i : elements)
            each(i);
    }
}

/// Sizes of one problem.
struct Sizes {
    int64_t batch, width, columns, channels, outputs, taps; // channels, outputs: of one group

    Sizes(const qconv_layer_config &c, int64_t batch_, int64_t width_)
        : batch(batch_),
          width(width_),
          columns(std::max<int64_t>(0, width_out(c, width_))),
          channels(c.in_channels / c.groups),
          outputs(c.out_channels / c.groups),
          taps(c.kernel_size) {}
};

} // namespace

double surrogate(const qconv_quantizer &quantizer, float v) {
    return surrogate_factor(quantizer, v).value;
}

Expected expect_grad_input(const qconv_layer_config &config, const float *x, const float *grad_output, int64_t batch,
                           int64_t width, const float *weight, std::span<const int64_t> elements) {
    const Sizes s(config, batch, width);
    const auto weights = static_cast<size_t>(config.out_channels * s.channels * s.taps);
    const auto outputs = static_cast<size_t>(batch * config.out_channels * s.columns);
    const Operand quantized = operand(quantize_weight(config, {weight, weights}));
    const int64_t terms = grad_input_products(config);
    const bool exact = exact_sums(grid_of(std::span(grad_output, outputs)), grid_of(quantized.value), terms);

    // Both operands with output channels innermost, so that one tap is one dot product.
    Operand w{std::vector<double>(weights), std::vector<double>(weights)}; // [groups, channels, taps, outputs]
    for (int64_t o = 0; o < config.out_channels; ++o) {
        const int64_t group = o / s.outputs;
        for (int64_t i = 0; i < s.channels * s.taps; ++i) {
            const auto to = static_cast<size_t>((group * s.channels * s.taps + i) * s.outputs + o % s.outputs);
            const auto from = static_cast<size_t>(o * s.channels * s.taps + i);
            w.value[to] = quantized.value[from];
            w.magnitude[to] = quantized.magnitude[from];
        }
    }
    std::vector<double> gy(outputs); // [batch, columns, out_channels]
    for (int64_t n = 0; n < batch; ++n) {
        for (int64_t o = 0; o < config.out_channels; ++o) {
            for (int64_t j = 0; j < s.columns; ++j) {
                gy[static_cast<size_t>((n * s.columns + j) * config.out_channels + o)] =
                    double{grad_output[(n * config.out_channels + o) * s.columns + j]};
            }
        }
    }

    Expected expected;
    for_elements(elements, batch * config.in_channels * width, [&](int64_t element) {
        const int64_t i = element % width, c = element / width % config.in_channels;
        const int64_t n = element / width / config.in_channels;
        const Factor factor = input_factor(config, x == nullptr ? 0.0f : x[element]);
        Sum sum;
        for (int64_t k = 0; k < s.taps && factor.value != 0; ++k) {
            const int64_t reach = i + config.pad_left - k * config.dilation;
            if (reach < 0 || reach % config.stride != 0 || reach / config.stride >= s.columns) continue;
            const int64_t at = (c * s.taps + k) * s.outputs;
            const int64_t from = (n * s.columns + reach / config.stride) * config.out_channels;
            const Sum part = dot(w.value.data() + at, w.magnitude.data() + at,
                                 gy.data() + from + c / s.channels * s.outputs, s.outputs);
            sum.value += part.value;
            sum.magnitude += part.magnitude;
        }
        push(expected, factor, sum, exact, terms);
    });
    return expected;
}

Expected expect_grad_weight(const qconv_layer_config &config, const float *x, const float *grad_output, int64_t batch,
                            int64_t width, const float *weight, std::span<const int64_t> elements) {
    const Sizes s(config, batch, width);
    const auto inputs = static_cast<size_t>(batch * config.in_channels * width);
    const auto outputs = static_cast<size_t>(batch * config.out_channels * s.columns);
    const bool binary = config.kind == QCONV_LAYER_QCONV1D &&
                        (config.input_mix > 0 ? is_binary(config.input_next) : is_binary(config.input_quantization));
    const Operand xq = operand(quantize_input(config, {x, inputs}));
    const double pad = double{config.pad_value}, pad_magnitude = binary ? 2 + std::abs(pad) : std::abs(pad);
    Grid x_grid = grid_of(xq.value);
    x_grid.add(pad);
    if (binary) x_grid.largest += 1 + std::abs(pad);
    const int64_t terms = grad_weight_products(config, batch, width);
    const bool exact = exact_sums(grid_of(std::span(grad_output, outputs)), x_grid, terms);

    Expected expected;
    for_elements(elements, config.out_channels * s.channels * s.taps, [&](int64_t element) {
        const int64_t k = element % s.taps, o = element / s.taps / s.channels;
        const int64_t c = element / s.taps % s.channels + o / s.outputs * s.channels;
        const int64_t shift = k * config.dilation - config.pad_left;
        Sum sum;
        for (int64_t n = 0; n < batch; ++n) {
            const int64_t row = (n * config.in_channels + c) * width;
            const float *gy = grad_output + (n * config.out_channels + o) * s.columns;
            // Columns first <= j < last have this tap inside x.
            const int64_t first = std::clamp<int64_t>((-shift + config.stride - 1) / config.stride, 0, s.columns);
            const int64_t room = width - 1 - shift;
            const int64_t last = room < 0 ? first : std::clamp(room / config.stride + 1, first, s.columns);
            for (int64_t j = first; j < last; ++j) {
                const auto from = static_cast<size_t>(row + j * config.stride + shift);
                sum.value += double{gy[j]} * xq.value[from];
                sum.magnitude += std::abs(double{gy[j]}) * xq.magnitude[from];
            }
            const auto outside = [&](int64_t begin, int64_t end) {
                for (int64_t j = begin; j < end; ++j) {
                    sum.value += double{gy[j]} * pad;
                    sum.magnitude += std::abs(double{gy[j]}) * pad_magnitude;
                }
            };
            outside(0, first);
            outside(last, s.columns);
        }
        const Factor factor = weight_factor(config, weight == nullptr ? 0.0f : weight[element]);
        push(expected, factor, sum, exact, terms);
    });
    return expected;
}

Expected expect_grad_bias(const qconv_layer_config &config, const float *grad_output, int64_t batch, int64_t width) {
    const Sizes s(config, batch, width);
    const auto outputs = static_cast<size_t>(batch * config.out_channels * s.columns);
    const int64_t terms = batch * s.columns;
    const bool exact = exact_sums(grid_of(std::span(grad_output, outputs)), {0, 1}, terms);
    Expected expected;
    for (int64_t o = 0; o < config.out_channels; ++o) {
        Sum sum;
        for (int64_t n = 0; n < batch; ++n) {
            const float *gy = grad_output + (n * config.out_channels + o) * s.columns;
            for (int64_t j = 0; j < s.columns; ++j) {
                sum.value += double{gy[j]};
                sum.magnitude += std::abs(double{gy[j]});
            }
        }
        push(expected, {}, sum, exact, terms);
    }
    return expected;
}

int64_t grad_input_products(const qconv_layer_config &config) {
    return config.out_channels / config.groups * config.kernel_size;
}

int64_t grad_weight_products(const qconv_layer_config &config, int64_t batch, int64_t width) {
    return batch * std::max<int64_t>(0, width_out(config, width));
}

std::vector<int64_t> sample_elements(int64_t rows, int64_t length, int64_t most, uint64_t seed) {
    if (rows * length <= most) return {};
    std::mt19937_64 random(seed);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    std::vector<int64_t> elements;
    for (int64_t i = 0; i < most; ++i) {
        const int64_t near =
            below(std::min(length, int64_t{1} << below(std::bit_width(static_cast<uint64_t>(length)))));
        const int64_t at = i % 3 == 0 ? near : i % 3 == 1 ? length - 1 - near : below(length);
        elements.push_back(below(rows) * length + at);
    }
    std::sort(elements.begin(), elements.end());
    elements.erase(std::unique(elements.begin(), elements.end()), elements.end());
    return elements;
}

std::vector<uint32_t> saved_state(const qconv_layer_config &config, const float *x, int64_t batch, int64_t width) {
    const int64_t words = (width + 31) / 32, rows = batch * config.in_channels;
    const qconv_quantizer &q = config.input_mix > 0 ? config.input_next : config.input_quantization;
    const bool levels = q.kind == QCONV_INPUTDOREFA;
    const int bits = levels ? q.bits : 1;
    const double top = std::ldexp(1.0, bits) - 1;
    std::vector<uint32_t> state(static_cast<size_t>((bits + 1) * rows * words), 0);
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < width; ++i) {
            const float v = x[row * width + i];
            const double value = quantize(q, v, 1);
            const auto level = static_cast<uint32_t>(levels ? std::lround(value * top) : value > 0);
            const uint32_t planes = level | uint32_t{input_factor(config, v).value != 0} << bits;
            for (int plane = 0; plane <= bits; ++plane) {
                const auto word = static_cast<size_t>(((bits + 1) * row + plane) * words + i / 32);
                state[word] |= (planes >> plane & 1) << (i % 32);
            }
        }
    }
    return state;
}

} // namespace qconv::reference
