// The kernels of a layer, chosen for the width of each call: what width classes are, weights back from every packed
// layout, and layers called at many widths beside layers made for one.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "arithmetic.h"
#include "config.h"
#include "memory.h"
#include "pack.h"
#include "pack_grad_input.h"
#include "qconv/layout.h"
#include "quantize.h"
#include "support/catch.h"
#include "support/counting_allocator.h"
#include "support/layer_case.h"
#include "support/targets.h"
#include "unpack.h"
#include "variants.h"

namespace qconv::test {
namespace {

TEST_CASE("variants: width classes", "[variants]") {
    std::set<size_t> indexes;
    int64_t last = 0;
    for (int64_t positions = 1; positions < 5000; ++positions) {
        INFO(positions << " positions");
        const WidthClass c(positions);
        CHECK(c.positions() >= positions);
        CHECK(c.index() < WidthClass::count);
        if (positions <= 64) CHECK(c.positions() == positions);
        if (positions > 64 && positions <= 1024) CHECK(c.positions() == (positions + 15) / 16 * 16);
        if (positions > 1024) CHECK(4 * c.positions() <= 5 * positions);
        // A class is known by its positions, and classes follow one another.
        CHECK(WidthClass(c.positions()).index() == c.index());
        CHECK(c.positions() >= last);
        CHECK(indexes.insert(c.index()).second == (c.positions() > last));
        last = c.positions();
    }
    CHECK(WidthClass(int64_t{1} << 31).index() == WidthClass::count - 1);
    CHECK(WidthClass(int64_t{1} << 31).positions() == int64_t{1} << 31);
}

bool same(const Memory &a, const Memory &b) {
    return a.bytes() == b.bytes() && (a.bytes() == 0 || std::memcmp(a.data(), b.data(), a.bytes()) == 0);
}

std::string difference(const PackedForward &a, const PackedForward &b) {
    if (!same(a.weight, b.weight)) return "weight";
    if (!same(a.offset, b.offset)) return "offset";
    if (!same(a.edge, b.edge)) return "edge";
    const auto scalars = [](const PackedForward &p) {
        return std::tuple(p.pad_level, p.dot_factor, p.window_factor, p.scale, p.pad_delta);
    };
    return scalars(a) == scalars(b) ? "" : "scalars";
}

std::string difference(const PackedGradInput &a, const PackedGradInput &b) {
    return a.blocks == b.blocks && same(a.weight, b.weight) ? "" : "weight";
}

/// A layer's weights packed for every kernel of one op that serves it: as the layer packs, unpacked and packed again.
template <typename Packed, typename Pack>
void round_trip(const LayerCase &c, const qconv_layer_config &config, qconv_op op, Pack pack, int64_t &runs,
                std::set<std::string> &kernels) {
    const std::span<const float> weight(c.weight());
    PackScratch levels;
    const TensorQuantizer quantizer(weight_quantizer(config), weight, levels);
    std::vector<float> expected(weight.size());
    quantizer.values(weight, expected.data());
    const TensorQuantizer kept(weight_representation(config));
    std::set<std::string> layouts;
    const qconv_kernel *kernel = nullptr;
    for (size_t i = 0; (kernel = qconv_kernel_at(i)) != nullptr; ++i) {
        if (kernel->op != op || mismatch(*kernel, config) != nullptr) continue;
        // Targets share most layouts.
        if (!layouts.insert(std::string(kernel->name) + " " + std::to_string(kernel->out_block)).second) continue;
        INFO(kernel->name << " on " << kernel->target << ": " << c.describe());
        PackScratch scratch;
        Packed first, again;
        pack(first, *kernel, quantizer, weight, scratch);
        std::vector<float> values(weight.size(), NAN);
        unpack(first, *kernel, config, values);
        CHECK(std::memcmp(values.data(), expected.data(), values.size() * sizeof(float)) == 0);
        pack(again, *kernel, kept, std::span<const float>(values), scratch);
        CHECK(difference(first, again) == "");
        kernels.insert(std::string(op == QCONV_OP_FORWARD ? "" : "grad_input ") + kernel->name);
        ++runs;
    }
}

TEST_CASE("variants: weights come back from every layout", "[variants]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    int64_t runs = 0;
    std::set<std::string> kernels;
    for (size_t s = 0; s < kShapeCount; ++s) {
        const Shape &shape = kShapes[s];
        if (shape.out * shape.in / shape.groups * shape.kernel > 20'000) continue;
        for (size_t p = 0; p < pairs().size(); ++p) {
            if (!shape.thin && !pairs()[p].thin) continue;
            const LayerCase c(shape, pairs()[p], pairs()[p].kind == QCONV_LAYER_CONV1D ? 0.0f : 0.5f, Data::Random,
                              s * 1000 + p, 1000);
            qconv_layer_config config = c.config();
            config.directions = QCONV_TRAINING;
            const std::span<const float> bias(c.bias(), c.bias() == nullptr ? 0 : static_cast<size_t>(shape.out));
            round_trip<PackedForward>(
                c, config, QCONV_OP_FORWARD,
                [&](PackedForward &packed, const qconv_kernel &kernel, const TensorQuantizer &quantizer,
                    std::span<const float> weight,
                    PackScratch &scratch) { pack_forward(packed, kernel, config, quantizer, weight, bias, scratch); },
                runs, kernels);
            round_trip<PackedGradInput>(
                c, config, QCONV_OP_GRAD_INPUT,
                [&](PackedGradInput &packed, const qconv_kernel &kernel, const TensorQuantizer &quantizer,
                    std::span<const float> weight,
                    PackScratch &scratch) { pack_grad_input(packed, kernel, config, quantizer, weight, scratch); },
                runs, kernels);
        }
    }
    std::printf("%lld layouts of %zu kernels unpacked\n", static_cast<long long>(runs), kernels.size());
    CHECK(runs > 0);
}

/// Data of one layer at many widths.
struct ManyWidths {
    qconv_layer_config config;
    std::vector<float> weight, other_weight, bias, x;
    static constexpr int64_t kBatch = 2, kMost = 400;

    ManyWidths(const Shape &shape, const Pair &pair, uint64_t stream) {
        qconv_layer_config_init(&config, pair.kind);
        apply(pair, config);
        test::apply(shape, config);
        if (pair.kind != QCONV_LAYER_CONV1D) config.pad_value = 0.5f;
        config.directions = QCONV_TRAINING;
        Random random(stream);
        weight = make_weight(config, Data::Random, random);
        other_weight = make_weight(config, Data::Random, random);
        if (pair.bias) bias = make_bias(config, random);
        x = make_input(config, kBatch * config.in_channels * kMost, Data::Random, random);
    }

    LayerPtr create(int64_t width, const std::vector<float> &weights) const {
        qconv_layer_config here = config;
        here.width = width;
        qconv_layer *layer = nullptr;
        REQUIRE(qconv_layer_create(&here, weights.data(), bias.empty() ? nullptr : bias.data(), &layer) == QCONV_OK);
        return LayerPtr(layer);
    }
    void set(const LayerPtr &layer, const std::vector<float> &weights) const {
        REQUIRE(qconv_layer_set_weights(layer.get(), weights.data(), bias.empty() ? nullptr : bias.data()) == QCONV_OK);
    }

    /// y, grad_input and grad_weight of one step, in workspaces of exactly the sizes asked for; empty when a call
    /// fails.
    std::vector<float> step(const LayerPtr &layer, int64_t width) const {
        int64_t width_out = 0;
        size_t bytes = 0, state_bytes = 0;
        if (qconv_layer_width_out(layer.get(), width, &width_out) != QCONV_OK) return {};
        if (qconv_layer_training_workspace_size(layer.get(), kBatch, width, &bytes) != QCONV_OK) return {};
        if (qconv_layer_state_size(layer.get(), kBatch, width, &state_bytes) != QCONV_OK) return {};
        const Memory workspace(bytes), state(state_bytes);
        const auto outputs = static_cast<size_t>(kBatch * config.out_channels * width_out),
                   inputs = static_cast<size_t>(kBatch * config.in_channels * width);
        std::vector<float> result(outputs + inputs + weight.size());
        float *y = result.data(), *grad_input = y + outputs, *grad_weight = grad_input + inputs;
        if (qconv_layer_forward_training(layer.get(), x.data(), kBatch, width, y, state.data(), state.bytes(),
                                         workspace.data(), workspace.bytes()) != QCONV_OK) {
            return {};
        }
        const qconv_status status =
            qconv_layer_backward(layer.get(), x.data(), state.data(), state.bytes(), y, kBatch, width, grad_input,
                                 grad_weight, nullptr, workspace.data(), workspace.bytes());
        return status == QCONV_OK ? result : std::vector<float>();
    }
};

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return !a.empty() && a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

const Shape kShapesHere[] = {
    {64, 64, 3, 1, 1, 1, 1, 1, 0, 0, "a middling layer"},
    {20, 33, 5, 2, 5, 4, 2, 1, 0, 0, "strided, dilated"},
    {17, 17, 9, 1, 4, 4, 1, 17, 0, 0, "depthwise"},
};
const int64_t kWidths[] = {8, 300, 1, 17, 2, 65, 399, 33, 12, 128, 64, 5};

TEST_CASE("variants: calls of any width are those of a layer for that width", "[variants]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    std::set<std::string> pairs_with_several;
    for (const Shape &shape : kShapesHere) {
        for (size_t p = 0; p < pairs().size(); ++p) {
            const ManyWidths data(shape, pairs()[p], 7000 + p);
            const LayerPtr many = data.create(kWidths[0], data.weight);
            const size_t bytes = qconv_layer_packed_bytes(many.get());
            for (const int round : {0, 1, 2}) {
                // The second round's weights come while many variants are in use, the third's while few are.
                const std::vector<float> &weights = round == 1 ? data.other_weight : data.weight;
                if (round > 0) data.set(many, weights);
                if (round == 1) (void)data.step(many, 33);
                for (const int64_t width : kWidths) {
                    INFO(pairs()[p].name << ", " << describe(shape) << ", width " << width << ", round " << round);
                    const LayerPtr one = data.create(width, weights);
                    CHECK(same_bits(data.step(many, width), data.step(one, width)));
                }
                if (round == 1) data.set(many, data.weight), (void)data.step(many, 300);
            }
            if (qconv_layer_packed_bytes(many.get()) > bytes) pairs_with_several.insert(pairs()[p].name);
        }
    }
    std::printf("%zu of %zu pairs took several kernels\n", pairs_with_several.size(), pairs().size());
    CHECK(!pairs_with_several.empty());
}

TEST_CASE("variants: first calls of several widths at once", "[variants][threads]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    const ManyWidths data(kShapesHere[0], pairs()[0], 1);
    std::map<int64_t, std::vector<float>> expected;
    for (const int64_t width : kWidths)
        expected[width] = data.step(data.create(width, data.weight), width);
    for (int round = 0; round < 20; ++round) {
        const LayerPtr layer = data.create(0, data.weight);
        std::vector<std::thread> callers;
        std::atomic<int> wrong{0};
        for (size_t i = 0; i < std::size(kWidths); ++i) {
            callers.emplace_back([&, i] {
                for (size_t j = 0; j < 4; ++j) {
                    const int64_t width = kWidths[(i + j) % std::size(kWidths)];
                    if (!same_bits(data.step(layer, width), expected[width])) ++wrong;
                }
            });
        }
        for (std::thread &caller : callers)
            caller.join();
        CHECK(wrong == 0);
    }
}

TEST_CASE("variants: nothing is allocated once a width has been called", "[variants]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    const ManyWidths data(kShapesHere[0], pairs()[0], 1);
    Counter counter;
    {
        const Hooked hooked(counter);
        const LayerPtr layer = data.create(8, data.weight);
        std::vector<float> y(data.x.size());
        const auto run = [&] {
            for (const int64_t width : {8, 300, 1}) {
                REQUIRE(qconv_layer_forward(layer.get(), data.x.data(), 1, width, y.data(), nullptr, 0) == QCONV_OK);
            }
        };
        run();
        const int64_t before = counter.allocations;
        run();
        // Weights come to all that are in use.
        data.set(layer, data.other_weight);
        run();
        CHECK(counter.allocations == before);
    }
    CHECK(counter.outstanding == 0);
}

} // namespace
} // namespace qconv::test
