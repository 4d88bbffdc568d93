// The packed layouts and arguments of the training kernels, against the oracle: plain-loop kernels that read nothing
// but what layout.h documents stand in for the compiled ones.
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "arithmetic.h"
#include "backward.h"
#include "config.h"
#include "memory.h"
#include "pack_grad_input.h"
#include "plan_backward.h"
#include "qconv/layout.h"
#include "support/arguments.h"
#include "support/catch.h"
#include "support/training.h"
#include "surrogate.h"
#include "workspace.h"

namespace qconv::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// The layout of the kernel under test: a compiled kernel has it built in.
const qconv_kernel *layout = nullptr;

int64_t extent(const halide_buffer_t &buffer, int d) {
    return buffer.dim[d].extent;
}

bool state_bit(const halide_buffer_t &state, int64_t i, int64_t plane, int64_t c, int64_t g, int64_t n) {
    return (at<uint32_t>(state, {i / 32, plane, c, g, n}) >> (i % 32) & 1U) != 0;
}

/// Forward and backward of the quantizers that the cases here use.
float quantized(int64_t kind, float levels, float v) {
    switch (kind) {
        case QCONV_IDENTITY:
            return v;
        case QCONV_INPUTDOREFA:
            return std::nearbyint(std::fmin(std::fmax(v, 0.0f), 1.0f) * levels) / levels;
        case QCONV_STEHEAVISIDE:
            return v > 0 ? 1.0f : -1.0f;
        default:
            return v < 0 ? -1.0f : 1.0f;
    }
}

float derivative(int64_t kind, float beta, float v) {
    switch (kind) {
        case QCONV_APPROXSIGN:
            return std::fabs(v) <= 1 ? 2.0f - 2.0f * std::fabs(v) : 0.0f;
        case QCONV_SWISHSIGN:
            return beta * (2 - beta * v * std::tanh(beta * v / 2)) / (1 + std::cosh(beta * v));
        case QCONV_STEHEAVISIDE:
            return std::fabs(v) <= 1 ? 1.0f : 0.0f;
        default:
            return 1;
    }
}

/// (1 - mix) * derivative + mix * next derivative, from the five arguments that start at `first`.
template <typename Argument>
float mixed_derivative(const Named<Argument> &a, Argument first, float v) {
    const auto next = [first](int i) { return static_cast<Argument>(static_cast<int>(first) + i); };
    const float mix = a.real(next(4));
    const float one = derivative(a.integer(first), a.real(next(1)), v);
    return mix == 0 ? one : (1 - mix) * one + mix * derivative(a.integer(next(2)), a.real(next(3)), v);
}

/// An operand that the call lacks: one element, wherever a kernel looks.
void require_stand_in(const halide_buffer_t &buffer) {
    REQUIRE(buffer.host != nullptr);
    for (int d = 1; d < buffer.dimensions; ++d)
        REQUIRE(buffer.dim[d].stride == 0);
}

float input_factor(const Named<GradInputArg> &a, int64_t i, int64_t c, int64_t g, int64_t n) {
    switch (static_cast<Surrogate>(a.integer(GradInputArg::Factor))) {
        case Surrogate::One:
            return 1;
        case Surrogate::FromState:
            return state_bit(a.buffer(GradInputArg::State), i, extent(a.buffer(GradInputArg::State), 1) - 1, c, g, n)
                       ? 1.0f
                       : 0.0f;
        case Surrogate::FromInput:
        case Surrogate::Within:
            break;
    }
    const float v = at<float>(a.buffer(GradInputArg::X), {i, c, g, n});
    const float threshold = a.real(GradInputArg::Threshold);
    if (!std::isnan(threshold) && !(std::fabs(v) <= threshold)) return 0;
    if (static_cast<Surrogate>(a.integer(GradInputArg::Factor)) == Surrogate::Within) return 1;
    return mixed_derivative(a, GradInputArg::Quantizer, v);
}

int plain_grad_input(void **arguments) {
    const Named<GradInputArg> a{arguments};
    const halide_buffer_t &gy = a.buffer(GradInputArg::GradOutput), &weight = a.buffer(GradInputArg::Weight);
    const halide_buffer_t &shift = a.buffer(GradInputArg::TapShift), &start = a.buffer(GradInputArg::PhaseStart);
    const halide_buffer_t &result = a.buffer(GradInputArg::GradInput);
    const int64_t width = extent(a.buffer(GradInputArg::X), 0), stride = a.integer(GradInputArg::Stride);
    REQUIRE(a.integer(GradInputArg::TileWidth) % layout->width_block == 0);
    const auto factor = static_cast<Surrogate>(a.integer(GradInputArg::Factor));
    if (factor == Surrogate::One || factor == Surrogate::FromState) require_stand_in(a.buffer(GradInputArg::X));
    if (factor != Surrogate::FromState) require_stand_in(a.buffer(GradInputArg::State));
    const auto value = [&](int64_t t, int64_t o, int64_t c, int64_t g) -> double {
        if (layout->group_block > 1) return at<float>(weight, {g % layout->group_block, t, g / layout->group_block});
        if (layout->tables == 0) {
            return at<float>(weight, {c % layout->out_block, t, o, c / layout->out_block, g});
        }
        const int64_t table = o / layout->table_channels;
        const int bits = at<uint8_t>(weight, {table % layout->tables, t, c, table / layout->tables, g});
        return (bits >> (o % layout->table_channels) & 1) != 0 ? 1 : -1;
    };
    for (int64_t n = 0; n < extent(result, 4); ++n)
        for (int64_t g = 0; g < extent(result, 3); ++g)
            for (int64_t c = 0; c < extent(result, 2); ++c)
                for (int64_t i = 0; i < width; ++i) {
                    const int64_t j = i / stride, e = i % stride;
                    double sum = 0;
                    for (int64_t t = at<int32_t>(start, {e}); t < at<int32_t>(start, {e + 1}); ++t) {
                        const int64_t far = at<int32_t>(shift, {t});
                        REQUIRE(far >= a.integer(GradInputArg::ShiftMin));
                        REQUIRE(far <= a.integer(GradInputArg::ShiftMax));
                        if (j + far < 0 || j + far >= extent(gy, 0)) continue;
                        for (int64_t o = 0; o < extent(gy, 1); ++o)
                            sum += double{at<float>(gy, {j + far, o, g, n})} * value(t, o, c, g);
                    }
                    at<float>(result, {e, j, c, g, n}) = input_factor(a, i, c, g, n) * static_cast<float>(sum);
                }
    return 0;
}

/// The element of the quantized and padded input at padded position p.
double input_value(const Named<GradWeightArg> &a, int64_t p, int64_t c, int64_t g, int64_t n) {
    const halide_buffer_t &x = a.buffer(GradWeightArg::X);
    const int64_t i = p - a.integer(GradWeightArg::PadLeft);
    const bool is_unsigned = a.integer(GradWeightArg::Quantizer) == QCONV_INPUTDOREFA;
    if (i < 0 || i >= extent(x, 0)) {
        if (layout->tables == 0) return double{a.real(GradWeightArg::PadValue)};
        return is_unsigned ? 0 : -1;
    }
    if (static_cast<Surrogate>(a.integer(GradWeightArg::Source)) == Surrogate::FromState) {
        const halide_buffer_t &state = a.buffer(GradWeightArg::State);
        int64_t level = 0;
        for (int64_t plane = 0; plane < extent(state, 1) - 1; ++plane)
            level |= int64_t{state_bit(state, i, plane, c, g, n)} << plane;
        const float share = static_cast<float>(level) / a.real(GradWeightArg::Levels);
        return double{is_unsigned ? share : 2 * share - 1};
    }
    const float v = at<float>(x, {i, c, g, n}), mix = a.real(GradWeightArg::Mix);
    const float one = quantized(a.integer(GradWeightArg::Quantizer), a.real(GradWeightArg::Levels), v);
    if (mix == 0) return one;
    return (1 - mix) * one + mix * quantized(a.integer(GradWeightArg::Next), a.real(GradWeightArg::NextLevels), v);
}

int plain_grad_weight(void **arguments) {
    const Named<GradWeightArg> a{arguments};
    const halide_buffer_t &gy = a.buffer(GradWeightArg::GradOutput), &result = a.buffer(GradWeightArg::GradWeight);
    const int64_t width = extent(a.buffer(GradWeightArg::X), 0), width_out = extent(gy, 0);
    REQUIRE(a.integer(GradWeightArg::TileWidth) % layout->width_block == 0);
    REQUIRE(a.integer(GradWeightArg::TileChannels) >= 1);
    const bool from_state = static_cast<Surrogate>(a.integer(GradWeightArg::Source)) == Surrogate::FromState;
    require_stand_in(a.buffer(from_state ? GradWeightArg::X : GradWeightArg::State));
    const bool has_factor = a.integer(GradWeightArg::HasFactor) != 0;
    if (!has_factor) REQUIRE(a.buffer(GradWeightArg::Factor).host == result.host);
    const bool joined = layout->tables > 0; // taps and channels
    const int64_t taps = a.integer(GradWeightArg::KernelSize), channels = extent(a.buffer(GradWeightArg::X), 1);
    REQUIRE(extent(result, 0) == (joined ? taps * channels : taps));
    REQUIRE(extent(result, 1) == (joined ? 1 : channels));
    for (int64_t g = 0; g < extent(result, 3); ++g)
        for (int64_t o = 0; o < extent(result, 2); ++o)
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t k = 0; k < taps; ++k) {
                    const int64_t at_tap = joined ? c * taps + k : k, at_channel = joined ? 0 : c;
                    double sum = 0, outside = 0;
                    for (int64_t n = 0; n < extent(gy, 3); ++n)
                        for (int64_t w = 0; w < width_out; ++w) {
                            const int64_t p =
                                w * a.integer(GradWeightArg::Stride) + k * a.integer(GradWeightArg::Dilation);
                            const double gradient = at<float>(gy, {w, o, g, n});
                            sum += gradient * input_value(a, p, c, g, n);
                            const int64_t i = p - a.integer(GradWeightArg::PadLeft);
                            // Only the columns named as edges are looked at.
                            if (w < a.integer(GradWeightArg::EdgeLeft) && i < 0) outside += gradient;
                            if (w >= a.integer(GradWeightArg::EdgeRight) && i >= width) outside += gradient;
                        }
                    if (layout->tables > 0) sum += double{a.real(GradWeightArg::PadDelta)} * outside;
                    const float factor =
                        has_factor ? at<float>(a.buffer(GradWeightArg::Factor), {at_tap, at_channel, o, g}) : 1.0f;
                    at<float>(result, {at_tap, at_channel, o, g}) = factor * static_cast<float>(sum);
                }
    return 0;
}

int plain_save_state(void **arguments) {
    const Named<SaveStateArg> a{arguments};
    const halide_buffer_t &x = a.buffer(SaveStateArg::X), &state = a.buffer(SaveStateArg::State);
    const int64_t kind = a.integer(SaveStateArg::Quantizer), planes = extent(state, 1);
    const float threshold = a.real(SaveStateArg::Threshold), levels = a.real(SaveStateArg::Levels);
    for (int64_t row = 0; row < extent(x, 1); ++row)
        for (int64_t v = 0; v < extent(state, 0); ++v) {
            std::vector<uint32_t> words(static_cast<size_t>(planes), 0);
            for (int64_t b = 0; b < 32 && 32 * v + b < extent(x, 0); ++b) {
                const float value = at<float>(x, {32 * v + b, row}), becomes = quantized(kind, levels, value);
                const auto level =
                    static_cast<uint32_t>(kind == QCONV_INPUTDOREFA ? std::lround(becomes * levels) : becomes > 0);
                const bool passes = (std::isnan(threshold) || std::fabs(value) <= threshold) &&
                                    (kind != QCONV_STEHEAVISIDE || std::fabs(value) <= 1);
                for (size_t plane = 0; plane + 1 < words.size(); ++plane)
                    words[plane] |= (level >> plane & 1) << b;
                words.back() |= uint32_t{passes} << b;
            }
            for (int64_t plane = 0; plane < planes; ++plane)
                at<uint32_t>(state, {v, plane, row}) = words[static_cast<size_t>(plane)];
        }
    return 0;
}

qconv_kernel kernel(qconv_op op, int (*call)(void **), int out_block, int width_block, int tables = 0,
                    int table_channels = 0) {
    qconv_kernel k{};
    k.name = "plain";
    k.target = "sse41";
    k.op = op;
    k.path = tables > 0 ? QCONV_PATH_F32B1 : QCONV_PATH_F32F32;
    k.call = call;
    k.out_block = out_block;
    k.width_block = width_block;
    k.tables = tables;
    k.table_channels = table_channels;
    return k;
}

constexpr Shape kShapesHere[] = {
    {1, 1, 1, 1, 0, 0, 1, 1, 1, 1, "one of everything"},
    {5, 7, 3, 2, 2, 1, 1, 1, 2, 9, "odd channels, stride, both ends reach over"},
    {9, 12, 2, 1, 3, 4, 3, 1, 1, 6, "dilation, windows all padding"},
    {2, 4, 9, 1, 4, 4, 1, 2, 2, 5, "depthwise, wider than x"},
    {5, 5, 3, 1, 1, 2, 1, 5, 2, 9, "one output a group, an odd number of groups"},
    {6, 6, 5, 3, 0, 2, 2, 3, 1, 40, "two channels a group, padding on the right alone"},
    {3, 4, 2, 5, 1, 0, 1, 1, 2, 71, "a stride beyond the window: some positions reach no output"},
    {4, 4, 4, 2, 0, 0, 4, 2, 1, 33, "dilation beyond the stride, some input at the end unread"},
};

/// Workspace and context of one call.
struct Call {
    Memory memory;
    CallContext context;

    Call(size_t bytes, size_t slab, int workers, size_t extra = 0)
        : memory(bytes), context(memory.data(), slab, workers, extra) {}
};

/// The gradients of this case on these kernels, from packing to the result.
Gradients run(const TrainingCase &c, const qconv_kernel &input_kernel, const qconv_kernel &weight_kernel) {
    const qconv_layer_config &config = c.config();
    const Shape &s = c.shape();
    const MixedQuantizer quantizer = input_quantizer(config);
    std::vector<uint32_t> state(
        static_cast<size_t>(state_words(s.width) * state_planes(state_bits(config)) * s.in * s.batch));
    if (saved(config) == QCONV_SAVES_STATE) {
        const qconv_kernel save = kernel(QCONV_OP_SAVE_STATE, plain_save_state, 1, 1);
        Call call(slab_bytes(0), slab_bytes(0), 1);
        call_save_state(save, config, quantizer, c.data().x.data(), s.batch, s.width, state.data(), call.context);
        CHECK(state == reference::saved_state(config, c.data().x.data(), s.batch, s.width));
    }
    const bool saves_x = saved(config) == QCONV_SAVES_INPUT;
    const BackwardInput input{.x = saves_x ? c.data().x.data() : nullptr,
                              .state = saves_x ? nullptr : state.data(),
                              .grad_output = c.data().grad_output.data(),
                              .batch = s.batch,
                              .width = s.width};
    Gradients result;
    result.input.assign(c.data().x.size(), kNaN);
    result.weight.assign(c.data().weight.size(), kNaN);
    {
        layout = &input_kernel;
        PackScratch levels, scratch;
        PackedGradInput packed;
        const TensorQuantizer weights(weight_quantizer(config), c.data().weight, levels);
        pack_grad_input(packed, input_kernel, config, weights, c.data().weight, scratch);
        const GradInputPlan plan = plan_grad_input(input_kernel, config, s.batch, s.width, 1);
        Call call(plan.workspace(), plan.slab, plan.workers);
        call_grad_input(input_kernel, config, packed, plan, input, result.input.data(), call.context);
    }
    layout = &weight_kernel;
    const GradWeightPlan plan = plan_grad_weight(weight_kernel, config, s.batch, s.batch, s.width, 1);
    REQUIRE(plan.samples == s.batch);
    Call call(plan.workspace(), plan.slab, plan.workers, plan.extra);
    std::vector<float> factors(c.data().weight.size());
    take_derivatives(weight_quantizer(config), c.data().weight, factors.data());
    call_grad_weight(weight_kernel, config, quantizer, plan, input, input_divisors(quantizer),
                     has_weight_factor(config) ? factors.data() : nullptr, result.weight.data(), call.context);
    if (config.kind == QCONV_LAYER_CONV1D) {
        const reference::Expected sums =
            reference::expect_grad_bias(config, c.data().grad_output.data(), s.batch, s.width);
        result.bias.assign(sums.y.begin(), sums.y.end()); // no kernel's work
    }
    return result;
}

/// Quantizers whose formulas the plain kernels above know.
bool known(const Pair &pair) {
    const auto simple = [](const qconv_quantizer &q) {
        return q.kind != QCONV_WEIGHTDOREFA && (q.kind != QCONV_PROGRESSIVE_SIGN || q.training == 0);
    };
    return simple(pair.input) && (pair.input_mix == 0 || simple(pair.input_next));
}

TEST_CASE("packing: backward agrees with the oracle for every pair of quantizers", "[packing]") {
    qconv_kernel side_by_side = kernel(QCONV_OP_GRAD_INPUT, plain_grad_input, 1, 8);
    side_by_side.group_block = 4;
    side_by_side.unit_stride = 1;
    const qconv_kernel inputs[] = {
        side_by_side,
        kernel(QCONV_OP_GRAD_INPUT, plain_grad_input, 1, 8, 1, 8),
        kernel(QCONV_OP_GRAD_INPUT, plain_grad_input, 1, 48, 2, 5),
        kernel(QCONV_OP_GRAD_INPUT, plain_grad_input, 1, 16, 4, 3),
        kernel(QCONV_OP_GRAD_INPUT, plain_grad_input, 1, 8),
        kernel(QCONV_OP_GRAD_INPUT, plain_grad_input, 6, 32),
    };
    const qconv_kernel weights[] = {
        kernel(QCONV_OP_GRAD_WEIGHT, plain_grad_weight, 16, 20, 4, 5),
        kernel(QCONV_OP_GRAD_WEIGHT, plain_grad_weight, 4, 8),
    };
    std::array<int, 2> runs{};
    uint64_t stream = 0;
    for (const Shape &shape : kShapesHere)
        for (const Pair &pair : training_pairs()) {
            if (!known(pair)) continue;
            for (const float pad_value : {-1.0f, 0.0f, 0.5f}) {
                if (pair.kind == QCONV_LAYER_CONV1D && pad_value != 0) continue;
                const float threshold = stream % 3 == 0 ? kNaN : 0.5f * static_cast<float>(stream % 3);
                const Numbers numbers = stream % 2 == 0 ? Numbers::Integer : Numbers::Real;
                TrainingCase c(shape, pair, threshold, pad_value, numbers, ++stream);
                for (const qconv_kernel &input : inputs)
                    for (const qconv_kernel &weight : weights) {
                        if (mismatch(input, c.config()) != nullptr || mismatch(weight, c.config()) != nullptr) continue;
                        INFO(c.describe() << "; grad_input " << input.tables << " tables, blocks of " << input.out_block
                                          << "; grad_weight " << weight.tables << " tables");
                        REQUIRE(c.check(run(c, input, weight)) == "");
                        ++runs[input.tables > 0 ? 1 : 0];
                    }
            }
        }
    for (const int count : runs)
        CHECK(count > 200);
}

/// A batch in pieces sums up to the batch at once, and the workspace has room for the second result.
TEST_CASE("packing: grad_weight over pieces of a batch", "[packing]") {
    qconv_layer_config config = default_config(QCONV_LAYER_QCONV1D);
    config.in_channels = 40;
    config.out_channels = 3;
    config.kernel_size = 3;
    config.directions = QCONV_TRAINING;
    const qconv_kernel lookup = kernel(QCONV_OP_GRAD_WEIGHT, plain_grad_weight, 16, 20, 4, 5);
    const qconv_kernel sums = kernel(QCONV_OP_GRAD_WEIGHT, plain_grad_weight, 4, 8);
    const GradWeightPlan whole = plan_grad_weight(sums, config, 7, 7, 100, 1);
    CHECK(whole.samples == 7);
    CHECK(whole.sums == 0);
    const GradWeightPlan parts = plan_grad_weight(sums, config, 7, 3, 100, 1);
    CHECK(parts.samples == 3);
    CHECK(parts.sums >= 40 * 3 * 3 * sizeof(float));
    // Table indexes are a byte an element: so many are not made at once.
    const GradWeightPlan wide = plan_grad_weight(lookup, config, 64, 64, 1 << 16, 1);
    CHECK(wide.samples < 64);
    CHECK(wide.sums > 0);
    for (const int threads : {2, 3, 16}) {
        const GradWeightPlan other = plan_grad_weight(lookup, config, 64, 64, 1 << 16, threads);
        CHECK(other.samples == wide.samples);
        CHECK(other.tile_width == wide.tile_width);
    }
}

TEST_CASE("packing: backward kernels that cannot represent a layer are refused", "[packing]") {
    qconv_layer_config config = default_config(QCONV_LAYER_QCONV1D);
    const qconv_kernel input = kernel(QCONV_OP_GRAD_INPUT, plain_grad_input, 1, 8, 1, 8);
    const qconv_kernel weight = kernel(QCONV_OP_GRAD_WEIGHT, plain_grad_weight, 16, 20, 4, 5);
    const qconv_kernel state = kernel(QCONV_OP_SAVE_STATE, plain_save_state, 1, 1);
    for (const qconv_kernel &k : {input, weight, state})
        CHECK(mismatch(k, config) != nullptr); // forward alone
    config.directions = QCONV_TRAINING;
    for (const qconv_kernel &k : {input, weight, state})
        CHECK(mismatch(k, config) == nullptr);
    config.weight_quantization = quantizer(QCONV_WEIGHTDOREFA, 2);
    CHECK(mismatch(input, config) != nullptr);
    CHECK(mismatch(weight, config) == nullptr);
    config.weight_quantization = quantizer(QCONV_WEIGHTDOREFA, 1);
    CHECK(mismatch(input, config) == nullptr);
    // What is of one bit is looked up; what is not has no such kernel. A state stands for x unless a derivative needs
    // it.
    for (const auto kind : {QCONV_SIGN, QCONV_STEHEAVISIDE, QCONV_APPROXSIGN, QCONV_SWISHSIGN, QCONV_INPUTDOREFA,
                            QCONV_WEIGHTDOREFA, QCONV_IDENTITY}) {
        for (const int bits : {1, 3}) {
            config.input_quantization = quantizer(kind, bits);
            const bool dorefa = kind == QCONV_INPUTDOREFA || kind == QCONV_WEIGHTDOREFA;
            const bool one_bit = kind != QCONV_IDENTITY && (!dorefa || bits == 1);
            INFO(qconv_quantizer_name(kind) << ", " << bits << " bits");
            CHECK((mismatch(weight, config) == nullptr) == one_bit);
            const bool saves = kind == QCONV_SIGN || kind == QCONV_STEHEAVISIDE || kind == QCONV_INPUTDOREFA;
            CHECK((mismatch(state, config) == nullptr) == saves);
            CHECK(mismatch(kernel(QCONV_OP_GRAD_WEIGHT, plain_grad_weight, 4, 8), config) == nullptr);
        }
    }
}

} // namespace
} // namespace qconv::test
