// The packed layouts, factors and arguments of every path, against the oracle: plain-loop kernels that read nothing but
// what layout.h documents stand in for the compiled ones.
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "arithmetic.h"
#include "config.h"
#include "forward.h"
#include "memory.h"
#include "pack.h"
#include "plan.h"
#include "qconv/layout.h"
#include "support/arguments.h"
#include "support/catch.h"
#include "support/kernel_rows.h"
#include "support/layer_case.h"
#include "workspace.h"

namespace qconv::test {
namespace {

/// The layout of the kernel under test: a compiled kernel has it built in.
const qconv_kernel *layout = nullptr;

using Arguments = Named<ForwardArg>;

int64_t read_integer(const halide_buffer_t &buffer, std::initializer_list<int64_t> position) {
    if (buffer.type.code == halide_type_uint) {
        if (buffer.type.bits == 16) return int64_t{at<uint16_t>(buffer, position)};
        return buffer.type.bits == 8 ? int64_t{at<uint8_t>(buffer, position)} : int64_t{at<uint32_t>(buffer, position)};
    }
    return buffer.type.bits == 8 ? int64_t{at<int8_t>(buffer, position)} : int64_t{at<int16_t>(buffer, position)};
}

/// What a kernel does with one element of x; the packed paths take the level alone.
struct InputQuantizer {
    int64_t kind;
    float levels, divisor;

    int64_t level(float v) const {
        switch (kind) {
            case QCONV_STEHEAVISIDE:
                return v > 0 ? 1 : 0;
            case QCONV_INPUTDOREFA:
                return std::lrint(std::fmin(std::fmax(v, 0.0f), 1.0f) * levels);
            case QCONV_WEIGHTDOREFA:
                return std::lrint((std::tanh(v) / divisor + 0.5f) * levels);
            default:
                return v < 0 ? 0 : 1;
        }
    }
    float value(float v) const {
        switch (kind) {
            case QCONV_IDENTITY:
                return v;
            case QCONV_INPUTDOREFA:
                return static_cast<float>(level(v)) / levels;
            case QCONV_WEIGHTDOREFA:
                return 2.0f * (static_cast<float>(level(v)) / levels) - 1.0f;
            case QCONV_PROGRESSIVE_SIGN:
                return std::fmin(std::fmax(v / divisor, -1.0f), 1.0f);
            default:
                return level(v) == 1 ? 1.0f : -1.0f;
        }
    }
};

/// One output position of one group and batch entry, and the elements its window reads.
class Window {
public:
    Window(const Arguments &a, int64_t w, int64_t g, int64_t n)
        : a_(a), x_(a.buffer(ForwardArg::X)), w_(w), g_(g), n_(n) {}

    int64_t taps() const { return a_.integer(ForwardArg::KernelSize); }
    int64_t channels() const { return x_.dim[1].extent; }

    int64_t level(int64_t c, int64_t k) const {
        const InputQuantizer q{a_.integer(ForwardArg::Quantizer), a_.real(ForwardArg::Levels),
                               a_.real(ForwardArg::Divisor)};
        return inside(k) ? q.level(element(c, k)) : a_.integer(ForwardArg::PadLevel);
    }

    float value(int64_t c, int64_t k) const {
        if (!inside(k)) return a_.real(ForwardArg::PadValue);
        const InputQuantizer first{a_.integer(ForwardArg::Quantizer), a_.real(ForwardArg::Levels),
                                   a_.real(ForwardArg::Divisor)};
        const InputQuantizer next{a_.integer(ForwardArg::Next), a_.real(ForwardArg::NextLevels),
                                  a_.real(ForwardArg::NextDivisor)};
        const float mix = a_.real(ForwardArg::Mix);
        const float v = element(c, k);
        return mix == 0 ? first.value(v) : (1 - mix) * first.value(v) + mix * next.value(v);
    }

    float edge_correction(int64_t o) const {
        const halide_buffer_t &edge = a_.buffer(ForwardArg::Edge);
        int64_t first = 0; // taps before it lie left of x
        while (first < taps() && position(first) < 0)
            ++first;
        int64_t last = taps(); // taps from it on lie right of x
        while (last > 0 && position(last - 1) >= x_.dim[0].extent)
            --last;
        float sum = 0;
        if (w_ < a_.integer(ForwardArg::EdgeLeft)) sum += at<float>(edge, {first, o, g_});
        if (w_ >= a_.integer(ForwardArg::EdgeRight)) {
            sum += at<float>(edge, {taps(), o, g_}) - at<float>(edge, {last, o, g_});
        }
        return a_.real(ForwardArg::PadDelta) * sum;
    }

private:
    int64_t position(int64_t k) const {
        return w_ * a_.integer(ForwardArg::Stride) + k * a_.integer(ForwardArg::Dilation) -
               a_.integer(ForwardArg::PadLeft);
    }
    bool inside(int64_t k) const { return position(k) >= 0 && position(k) < x_.dim[0].extent; }
    float element(int64_t c, int64_t k) const { return at<float>(x_, {position(k), c, g_, n_}); }

    const Arguments &a_;
    const halide_buffer_t &x_;
    int64_t w_, g_, n_;
};

/// Calls body(window, w, o, g, n) for every output.
template <typename Body>
void for_each_output(const Arguments &a, const Body &body) {
    const halide_buffer_t &y = a.buffer(ForwardArg::Y);
    for (int64_t n = 0; n < y.dim[3].extent; ++n)
        for (int64_t g = 0; g < y.dim[2].extent; ++g)
            for (int64_t w = 0; w < y.dim[0].extent; ++w) {
                const Window window(a, w, g, n);
                for (int64_t o = 0; o < y.dim[1].extent; ++o)
                    body(window, w, o, g, n);
            }
}

/// Calls body(step, row, element of the word, channel, tap) for every element, also those past the ends.
template <typename Body>
void for_each_element(const Window &window, const Body &body) {
    const int64_t joined = word_taps(*layout);
    const PackedShape shape = packed_shape(*layout, window.channels(), 1, window.taps());
    for (int64_t step = 0; step < shape.steps; ++step)
        for (int64_t row = 0; row < shape.rows; ++row)
            for (int64_t t = 0; t < joined; ++t)
                for (int64_t c = 0; c < layout->word_channels; ++c) {
                    body(step, row, t * layout->word_channels + c, row * layout->word_channels + c, step * joined + t);
                }
}

/// One word of the weights, wherever vectors of words put it.
int64_t read_word(const halide_buffer_t &weight, int64_t steps, int64_t lane, int64_t step, int64_t row, int64_t plane,
                  int64_t block, int64_t g) {
    const int64_t v = layout->vector_words;
    if (v <= 1) return read_integer(weight, {lane, step, row, plane, block, g});
    const int64_t index = row * steps + step;
    REQUIRE(index / v < weight.dim[2].extent);
    return read_integer(weight, {index % v, lane, index / v, plane, block, g});
}

int plain_b1b1(void **arguments) {
    const Arguments a{arguments};
    const halide_buffer_t &weight = a.buffer(ForwardArg::Weight);
    for_each_output(a, [&](const Window &window, int64_t w, int64_t o, int64_t g, int64_t n) {
        const int64_t lane = o % layout->out_block, block = o / layout->out_block;
        int64_t counted = 0;
        for (int p = 0; p < layout->input_planes; ++p)
            for (int j = 0; j < layout->weight_planes; ++j) {
                for_each_element(window, [&](int64_t step, int64_t row, int64_t e, int64_t c, int64_t k) {
                    const bool exists = c < window.channels() && k < window.taps();
                    const int64_t input = exists ? window.level(c, k) >> p & 1 : 0;
                    const int64_t steps = packed_shape(*layout, window.channels(), 1, window.taps()).steps;
                    const int64_t word = read_word(weight, steps, lane, step, row, j, block, g);
                    counted += ((word >> e & 1) ^ input) << (p + j);
                });
            }
        const int64_t sum = at<int32_t>(a.buffer(ForwardArg::Offset), {o, g}) - 2 * counted;
        at<float>(a.buffer(ForwardArg::Y), {w, o, g, n}) =
            a.real(ForwardArg::Scale) * static_cast<float>(sum) + window.edge_correction(o);
    });
    return 0;
}

int plain_int8(void **arguments) {
    const Arguments a{arguments};
    const halide_buffer_t &weight = a.buffer(ForwardArg::Weight);
    for_each_output(a, [&](const Window &window, int64_t w, int64_t o, int64_t g, int64_t n) {
        const int64_t lane = o % layout->out_block, block = o / layout->out_block;
        int64_t dot = 0, sum = 0;
        for_each_element(window, [&](int64_t step, int64_t row, int64_t e, int64_t c, int64_t k) {
            const bool exists = c < window.channels() && k < window.taps();
            const int64_t input = (exists ? window.level(c, k) : 77) - layout->level_offset; // any byte may stand there
            dot += input * read_integer(weight, {e, lane, step, row, block, g});
            sum += exists ? input : 0;
        });
        const int64_t total = at<int32_t>(a.buffer(ForwardArg::Offset), {o, g}) +
                              a.integer(ForwardArg::DotFactor) * dot +
                              (layout->window_sum != 0 ? a.integer(ForwardArg::WindowFactor) * sum : 0);
        REQUIRE(total >= INT32_MIN);
        REQUIRE(total <= INT32_MAX);
        at<float>(a.buffer(ForwardArg::Y), {w, o, g, n}) =
            a.real(ForwardArg::Scale) * static_cast<float>(total) + window.edge_correction(o);
    });
    return 0;
}

int plain_f32(void **arguments) {
    const Arguments a{arguments};
    const halide_buffer_t &weight = a.buffer(ForwardArg::Weight);
    for_each_output(a, [&](const Window &window, int64_t w, int64_t o, int64_t g, int64_t n) {
        const int64_t lane = o % layout->out_block, block = o / layout->out_block;
        double sum = at<float>(a.buffer(ForwardArg::Offset), {o, g});
        for (int64_t c = 0; c < window.channels(); ++c)
            for (int64_t k = 0; k < window.taps(); ++k) {
                double v = 0;
                if (layout->tables > 0) {
                    const int64_t table = c / layout->table_channels;
                    const int64_t bits =
                        read_integer(weight, {table % layout->tables, k, o, table / layout->tables, g});
                    v = (bits >> (c % layout->table_channels) & 1) != 0 ? 1 : -1;
                } else if (layout->group_block > 1) {
                    v = at<float>(weight, {g % layout->group_block, k, g / layout->group_block});
                } else {
                    v = at<float>(weight, {lane, k, c, block, g});
                }
                sum += double{window.value(c, k)} * v;
            }
        at<float>(a.buffer(ForwardArg::Y), {w, o, g, n}) = static_cast<float>(sum);
    });
    return 0;
}

std::vector<qconv_kernel> kernels() {
    std::vector<qconv_kernel> all;
    for (int input_planes = 1; input_planes <= 3; ++input_planes)
        for (int weight_planes = 1; weight_planes <= 2; ++weight_planes) {
            all.push_back(b1b1(8, 8, input_planes, weight_planes));
            all.push_back(b1b1(8, 2, input_planes, weight_planes));
            all.push_back(b1b1(32, 32, input_planes, weight_planes));
            all.push_back(b1b1(32, 1, input_planes, weight_planes));
            for (const auto &[bits, channels] : {std::pair{32, 32}, {32, 8}, {16, 16}, {16, 2}}) {
                qconv_kernel vectors = b1b1(bits, channels, input_planes, weight_planes);
                vectors.vector_words = 128 / bits;
                all.push_back(vectors);
            }
        }
    for (const int word_channels : {4, 2, 1})
        for (const int window_sum : {0, 1})
            for (const int level_offset : {0, 128}) {
                qconv_kernel k = int8(8, word_channels, window_sum);
                k.level_offset = level_offset;
                all.push_back(k);
            }
    for (const int word_channels : {2, 1})
        all.push_back(int8(16, word_channels, 0));
    all.push_back(int8(16, 1, 0));
    all.back().word_bits = 16;
    all.push_back(f32b1(1, 8));
    all.push_back(f32b1(2, 5));
    all.push_back(kernel(QCONV_PATH_F32F32, 1));
    all.push_back(kernel(QCONV_PATH_F32F32, 6));
    all.push_back(depthwise(4));
    for (qconv_kernel &k : all)
        k.call = k.path == QCONV_PATH_B1B1 ? plain_b1b1 : k.path == QCONV_PATH_INT8 ? plain_int8 : plain_f32;
    return all;
}

constexpr Shape kShapesHere[] = {
    {1, 1, 1, 1, 0, 0, 1, 1, 1, 1, "one of everything"},
    {5, 7, 3, 2, 2, 1, 1, 1, 2, 9, "odd channels, stride, both ends reach over"},
    {36, 5, 2, 1, 3, 4, 3, 1, 1, 6, "more channels than a word, dilation, windows all padding"},
    {2, 4, 9, 1, 4, 4, 1, 2, 2, 5, "depthwise, more taps than a byte, wider than x"},
    {5, 5, 3, 2, 1, 2, 1, 5, 2, 9, "one output a group, an odd number of groups"},
    {6, 6, 5, 3, 0, 2, 2, 3, 1, 20, "two channels a group, padding on the right alone"},
};

/// The layer of this case on one of the kernels above, from packing to output.
std::vector<float> run(const qconv_kernel &k, const LayerCase &c) {
    layout = &k;
    const size_t bias_size = c.bias() == nullptr ? 0 : static_cast<size_t>(c.shape().out);
    PackScratch scratch;
    PackedForward packed;
    PackScratch levels;
    const TensorQuantizer weight_quantizer(qconv::weight_quantizer(c.config()), c.weight(), levels);
    pack_forward(packed, k, c.config(), weight_quantizer, c.weight(), {c.bias(), bias_size}, scratch);
    const Plan plan = make_plan(k, c.config(), c.shape().batch, c.shape().width, 1);
    const Memory workspace(plan.workspace());
    CallContext context(workspace.data(), plan.slab, plan.workers);
    const MixedQuantizer quantizer = input_quantizer(c.config());
    std::vector<float> y(static_cast<size_t>(c.y_size()), NAN);
    const ForwardInput input{.x = c.x().data(),
                             .y = y.data(),
                             .batch = c.shape().batch,
                             .width = c.shape().width,
                             .divisor = quantizer_divisor(quantizer.first, c.x()),
                             .next_divisor = quantizer_divisor(quantizer.next, c.x())};
    call_forward(k, c.config(), packed, quantizer, plan, input, context);
    return y;
}

std::string describe(const qconv_kernel &k) {
    const char *const paths[] = {"b1b1", "int8", "f32b1", "f32f32"};
    return std::string(paths[k.path]) + " word " + std::to_string(k.word_bits) + "/" + std::to_string(k.element_bits) +
           " x " + std::to_string(k.word_channels) + " channels, planes " + std::to_string(k.input_planes) + "x" +
           std::to_string(k.weight_planes) + ", tables " + std::to_string(k.tables) + " of " +
           std::to_string(k.table_channels) + ", window_sum " + std::to_string(k.window_sum) + ", vector_words " +
           std::to_string(k.vector_words) + ", level_offset " + std::to_string(k.level_offset) + ", group_block " +
           std::to_string(k.group_block);
}

TEST_CASE("packing: every path agrees with the oracle for every pair of quantizers", "[packing]") {
    int64_t runs[QCONV_PATHS] = {};
    uint64_t stream = 0;
    for (const Shape &shape : kShapesHere)
        for (const Pair &pair : pairs())
            for (const float pad_value : {-1.0f, 0.0f, 0.5f, 3.25f}) {
                if (pair.kind == QCONV_LAYER_CONV1D && pad_value != 0) continue;
                LayerCase c(shape, pair, pad_value, Data::Random, ++stream);
                for (const qconv_kernel &k : kernels()) {
                    if (mismatch(k, c.config()) != nullptr) continue;
                    INFO(c.describe() << "; " << describe(k));
                    const std::vector<float> y = run(k, c);
                    REQUIRE(c.check(k.path, y.data()) == "");
                    ++runs[k.path];
                }
            }
    for (const int64_t count : runs)
        CHECK(count > 100);
}

TEST_CASE("packing: the example of layout.h", "[packing]") {
    qconv_layer_config config = default_config(QCONV_LAYER_QCONV1D);
    config.in_channels = 8;
    const std::vector<float> weight = {1, -1, -1, 1, 1, -1, -1, -1};
    PackScratch scratch;
    PackedForward packed;
    PackScratch levels;
    pack_forward(packed, b1b1(8, 8, 1, 1), config, TensorQuantizer(weight_quantizer(config), weight, levels), weight,
                 {}, scratch);
    CHECK(packed.weight.as<uint8_t>()[0] == 0x19);
}

} // namespace
} // namespace qconv::test
