#include "reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference_detail.h"

namespace qconv::reference {

using namespace detail;

namespace {

/// One step of the quantizer table, in float32.
float quantize_value(const qconv_quantizer &q, float v, float tensor_max) {
    const float m = static_cast<float>((1 << q.bits) - 1);
    switch (q.kind) {
        case QCONV_SIGN:
        case QCONV_APPROXSIGN:
        case QCONV_SWISHSIGN:
            return v < 0.0f ? -1.0f : 1.0f;
        case QCONV_STEHEAVISIDE:
            return v > 0.0f ? 1.0f : -1.0f;
        case QCONV_INPUTDOREFA: {
            const float clamped = std::min(std::max(v, 0.0f), 1.0f);
            return std::nearbyintf(clamped * m) / m; // the default rounding mode is half to even
        }
        case QCONV_WEIGHTDOREFA: {
            const float adjusted = std::tanh(v) / (2.0f * tensor_max) + 0.5f;
            return 2.0f * (std::nearbyintf(adjusted * m) / m) - 1.0f;
        }
        case QCONV_PROGRESSIVE_SIGN: {
            if (q.training == 0) return v < 0.0f ? -1.0f : 1.0f;
            const double temperature = 1.0 - std::pow(double{q.alpha}, -double{q.beta} * double{q.scale});
            const float divisor = static_cast<float>(std::max(1.0 - temperature, 1e-7));
            return std::min(std::max(v / divisor, -1.0f), 1.0f);
        }
        default:
            return v;
    }
}

bool is_dorefa(const qconv_quantizer &q) {
    return q.kind == QCONV_INPUTDOREFA || q.kind == QCONV_WEIGHTDOREFA;
}

/// What the roundings inside a quantizer are relative to: weightdorefa ends in 2t - 1, whose operands outgrow it.
double magnitude(const qconv_quantizer &q, double value) {
    return q.kind == QCONV_WEIGHTDOREFA ? (value + 1) + 1 : std::abs(value);
}

qconv_quantizer identity() {
    qconv_quantizer q{};
    q.kind = QCONV_IDENTITY;
    return q;
}

} // namespace

namespace detail {

bool is_binary(const qconv_quantizer &q) {
    switch (q.kind) {
        case QCONV_SIGN:
        case QCONV_APPROXSIGN:
        case QCONV_SWISHSIGN:
        case QCONV_STEHEAVISIDE:
            return true;
        case QCONV_PROGRESSIVE_SIGN:
            return q.training == 0;
        default:
            return false;
    }
}

Quantized quantize_tensor(qconv_quantizer first, const qconv_quantizer &next, float mix, std::span<const float> v) {
    if (mix == 1.0f) first = next;
    const bool mixed = mix > 0.0f && mix < 1.0f;
    const bool squashed = first.kind == QCONV_WEIGHTDOREFA || (mixed && next.kind == QCONV_WEIGHTDOREFA);
    const float tensor_max = squashed ? max_abs_tanh(v) : 0.0f;

    Quantized result;
    result.integer = !mixed && (is_binary(first) || is_dorefa(first));
    if (result.integer && is_dorefa(first)) result.top = (1 << first.bits) - 1;
    result.level.reserve(v.size());
    result.magnitude.reserve(v.size());
    for (const float value : v) {
        const double q = quantize(first, value, tensor_max);
        if (mixed) {
            const double other = quantize(next, value, tensor_max);
            result.level.push_back((1.0 - double{mix}) * q + double{mix} * other);
            result.magnitude.push_back((1.0 - double{mix}) * magnitude(first, q) +
                                       double{mix} * magnitude(next, other));
        } else {
            // q is within one float32 rounding of level / top, so that this finds the level itself.
            result.level.push_back(result.integer ? std::nearbyint(q * result.top) : q);
            result.magnitude.push_back(magnitude(first, q));
        }
    }
    return result;
}

Quantized quantize_input(const qconv_layer_config &config, std::span<const float> x) {
    if (config.kind != QCONV_LAYER_QCONV1D) return quantize_tensor(identity(), identity(), 0, x);
    return quantize_tensor(config.input_quantization, config.input_next, config.input_mix, x);
}

Quantized quantize_weight(const qconv_layer_config &config, std::span<const float> weight) {
    if (config.kind == QCONV_LAYER_CONV1D) return quantize_tensor(identity(), identity(), 0, weight);
    return quantize_tensor(config.weight_quantization, config.weight_next, config.weight_mix, weight);
}

} // namespace detail

namespace {

/// True when sums of levels, and of pad_value times levels, are exact in float32 in whatever order they are taken.
bool exact_in_float(const qconv_layer_config &config, const Quantized &x, const Quantized &w, double terms) {
    if (!x.integer || !w.integer || x.top != 1 || w.top != 1) return false;
    const double pad = double{config.pad_value};
    return pad * 256 == std::nearbyint(pad * 256) && (1 + std::abs(pad)) * terms * 256 < 0x1p24;
}

struct Sums {
    std::vector<double> dot;       // sum of level products, taps inside x
    std::vector<double> outside;   // sum of weight levels of the taps outside x
    std::vector<double> magnitude; // sum of absolute products, taps inside and outside; empty unless asked for
    std::vector<double> reach;     // nonzero where some tap is outside
};

/// All sums of one output row: x rows [channels, width] and the weights [channels, kernel_size] of one output channel.
class RowSums {
public:
    RowSums(const qconv_layer_config &config, int64_t width, std::span<const int64_t> positions)
        : config_(config), width_(width), positions_(positions) {}

    void compute(const double *x, const double *x_magnitude, const double *w, const double *w_magnitude,
                 bool want_magnitude, Sums &sums) const {
        const size_t count = positions_.size();
        sums.dot.assign(count, 0);
        sums.outside.assign(count, 0);
        sums.reach.assign(count, 0);
        sums.magnitude.assign(want_magnitude ? count : 0, 0);
        const int64_t channels = config_.in_channels / config_.groups;
        for (int64_t k = 0; k < config_.kernel_size; ++k) {
            double tap_level = 0, tap_magnitude = 0;
            for (int64_t c = 0; c < channels; ++c) {
                tap_level += w[c * config_.kernel_size + k];
                tap_magnitude += w_magnitude[c * config_.kernel_size + k];
            }
            for (size_t j = 0; j < count; ++j) {
                if (inside(k, positions_[j])) continue;
                sums.reach[j] = 1;
                sums.outside[j] += tap_level;
                if (want_magnitude) sums.magnitude[j] += std::abs(double{config_.pad_value}) * tap_magnitude;
            }
            for (int64_t c = 0; c < channels; ++c) {
                const int64_t at = c * config_.kernel_size + k;
                add_tap(k, x + c * width_, w[at], sums.dot);
                if (want_magnitude) add_tap(k, x_magnitude + c * width_, w_magnitude[at], sums.magnitude);
            }
        }
    }

private:
    int64_t column(int64_t k, int64_t position) const {
        return position * config_.stride + k * config_.dilation - config_.pad_left;
    }
    bool inside(int64_t k, int64_t position) const {
        const int64_t at = column(k, position);
        return at >= 0 && at < width_;
    }
    void add_tap(int64_t k, const double *x, double w, std::vector<double> &sum) const {
        for (size_t j = 0; j < positions_.size(); ++j) {
            const int64_t at = column(k, positions_[j]);
            if (at >= 0 && at < width_) sum[j] += x[at] * w;
        }
    }

    const qconv_layer_config &config_;
    int64_t width_;
    std::span<const int64_t> positions_;
};

enum class Want { Forward, Both };

Expected evaluate(const qconv_layer_config &config, qconv_path path, const float *x_data, int64_t batch, int64_t width,
                  const float *weight, const float *bias, std::span<const int64_t> positions, Want want) {
    std::vector<int64_t> all;
    if (positions.empty()) {
        all.resize(static_cast<size_t>(std::max<int64_t>(0, width_out(config, width))));
        std::iota(all.begin(), all.end(), int64_t{0});
        positions = all;
    }
    const int64_t channels = config.in_channels / config.groups;
    const int64_t out_in_group = config.out_channels / config.groups;
    const int64_t terms = channels * config.kernel_size;
    const auto x_size = static_cast<size_t>(batch * config.in_channels * width);
    const auto w_size = static_cast<size_t>(config.out_channels * terms);
    const Quantized x = quantize_input(config, {x_data, x_size});
    const Quantized w = quantize_weight(config, {weight, w_size});

    const bool exact = exact_in_float(config, x, w, static_cast<double>(terms));
    const bool packed = path == QCONV_PATH_B1B1 || path == QCONV_PATH_INT8;
    const bool want_magnitude = want == Want::Both && !exact && !packed;
    const double pad = double{config.pad_value};
    const double slack = gamma(static_cast<double>(terms + 8));

    Expected result;
    result.y.reserve(static_cast<size_t>(batch * config.out_channels) * positions.size());
    if (want == Want::Both) result.tolerance.reserve(result.y.capacity());
    Sums sums;
    const RowSums rows(config, width, positions);
    for (int64_t n = 0; n < batch; ++n) {
        for (int64_t o = 0; o < config.out_channels; ++o) {
            const int64_t group = o / out_in_group;
            const int64_t x_at = (n * config.in_channels + group * channels) * width;
            rows.compute(x.level.data() + x_at, x.magnitude.data() + x_at, w.level.data() + o * terms,
                         w.magnitude.data() + o * terms, want_magnitude, sums);
            const double offset = bias != nullptr ? double{bias[o]} : 0.0;
            const double w_sum =
                std::accumulate(w.magnitude.begin() + o * terms, w.magnitude.begin() + (o + 1) * terms, 0.0);
            for (size_t j = 0; j < positions.size(); ++j) {
                const double y = sums.dot[j] / (x.top * w.top) + pad * sums.outside[j] / w.top + offset;
                result.y.push_back(y);
                if (want == Want::Forward) continue;
                if (exact) {
                    result.tolerance.push_back(0);
                } else if (packed) {
                    result.tolerance.push_back(4 * kUnit * std::abs(y) +
                                               sums.reach[j] * 16 * kUnit * (1 + std::abs(pad)) * w_sum);
                } else {
                    result.tolerance.push_back(slack * (sums.magnitude[j] + std::abs(offset)));
                }
            }
        }
    }
    return result;
}

} // namespace

float max_abs_tanh(std::span<const float> tensor) {
    float largest = 0.0f;
    for (const float v : tensor)
        largest = std::max(largest, std::abs(std::tanh(v)));
    return largest;
}

double quantize(const qconv_quantizer &quantizer, float v, float tensor_max) {
    return double{quantize_value(quantizer, v, tensor_max)};
}

int64_t width_out(const qconv_layer_config &config, int64_t width) {
    const int64_t room = width + config.pad_left + config.pad_right - config.dilation * (config.kernel_size - 1) - 1;
    return room < 0 ? 0 : room / config.stride + 1;
}

std::vector<double> forward(const qconv_layer_config &config, const float *x, int64_t batch, int64_t width,
                            const float *weight, const float *bias, std::span<const int64_t> positions) {
    return evaluate(config, QCONV_PATH_F32F32, x, batch, width, weight, bias, positions, Want::Forward).y;
}

std::vector<double> tolerance(const qconv_layer_config &config, qconv_path path, const float *x, int64_t batch,
                              int64_t width, const float *weight, const float *bias,
                              std::span<const int64_t> positions) {
    return expect(config, path, x, batch, width, weight, bias, positions).tolerance;
}

Expected expect(const qconv_layer_config &config, qconv_path path, const float *x, int64_t batch, int64_t width,
                const float *weight, const float *bias, std::span<const int64_t> positions) {
    return evaluate(config, path, x, batch, width, weight, bias, positions, Want::Both);
}

int64_t first_mismatch(const Expected &expected, const float *y) {
    for (size_t i = 0; i < expected.y.size(); ++i) {
        // Written so that a NaN on either side is a mismatch.
        const bool close = std::abs(double{y[i]} - expected.y[i]) <= expected.tolerance[i];
        if (!close) return static_cast<int64_t>(i);
    }
    return -1;
}

} // namespace qconv::reference
