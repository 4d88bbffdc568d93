// Networks: packed signs between layers give the same bits as the layers one by one, in the oracle and in the library.
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "support/catch.h"
#include "support/counting_allocator.h"
#include "support/guard.h"
#include "support/layer_case.h"
#include "support/reference.h"
#include "support/targets.h"

namespace qconv::test {
namespace {

struct DestroyNetwork {
    void operator()(qconv_network *network) const { qconv_network_destroy(network); }
};
using NetworkPtr = std::unique_ptr<qconv_network, DestroyNetwork>;

/// A layer with data. Weights, inputs, scales and shifts are small multiples of 1/4, so that every sum is exact, and
/// scale * y + shift is 0 for some.
struct TestLayer {
    qconv_layer_config config;
    std::vector<float> weight, scale, shift;
};

float quarter(Random &random, int64_t most) {
    return static_cast<float>(random.below(2 * most + 1) - most) / 4;
}

template <typename T, size_t N>
T pick(const T (&values)[N], Random &random) {
    return values[static_cast<size_t>(random.below(N))];
}

TestLayer random_layer(int64_t in, bool first, bool last, Random &random) {
    TestLayer layer;
    const bool real = first && random.below(2) == 0;
    qconv_layer_config &c = layer.config;
    qconv_layer_config_init(&c, real ? QCONV_LAYER_CONV1D : QCONV_LAYER_QCONV1D);
    constexpr int64_t channels[] = {8, 30, 32, 40, 64, 68, 96, 100};
    c.in_channels = in;
    c.out_channels = pick(channels, random);
    constexpr int64_t groups[] = {1, 1, 1, 2, 4};
    c.groups = pick(groups, random);
    if (c.in_channels % c.groups != 0 || c.out_channels % c.groups != 0) c.groups = 1;
    c.kernel_size = 1 + random.below(5);
    c.stride = random.below(3) == 0 ? 1 + random.below(3) : 1;
    c.dilation = 1 + random.below(3);
    c.pad_left = random.below(9);
    c.pad_right = c.dilation * (c.kernel_size - 1) + random.below(3); // so that the window always fits
    if (!real) {
        constexpr float pads[] = {-1, -1, 1, 0, 0.5f};
        c.pad_value = pick(pads, random);
        constexpr qconv_quantizer_kind steps[] = {QCONV_SIGN, QCONV_APPROXSIGN, QCONV_STEHEAVISIDE, QCONV_INPUTDOREFA};
        c.input_quantization = quantizer(pick(steps, random), 1);
        constexpr qconv_quantizer_kind signs[] = {QCONV_SIGN, QCONV_STEHEAVISIDE};
        c.weight_quantization = quantizer(pick(signs, random), 1);
    }
    for (int64_t i = 0; i < c.out_channels * (in / c.groups) * c.kernel_size; ++i)
        layer.weight.push_back(quarter(random, 4));
    const bool plain = random.below(4) == 0;
    for (int64_t o = 0; o < c.out_channels && !plain; ++o) {
        layer.scale.push_back(last ? 1 : quarter(random, 6));
        layer.shift.push_back(quarter(random, 40));
    }
    return layer;
}

NetworkPtr create(const std::vector<TestLayer> &layers, const std::string &target) {
    std::vector<qconv_network_layer> rows;
    for (const TestLayer &layer : layers) {
        const auto data = [](const std::vector<float> &values) { return values.empty() ? nullptr : values.data(); };
        rows.push_back({layer.config, layer.weight.data(), nullptr, data(layer.scale), data(layer.shift)});
        if (!target.empty()) rows.back().config.kernel = target.c_str();
    }
    qconv_network *network = nullptr;
    const qconv_status status = qconv_network_create(rows.data(), rows.size(), &network);
    INFO(qconv_last_error());
    REQUIRE(status == QCONV_OK);
    return NetworkPtr(network);
}

/// The oracle, layer by layer.
std::vector<float> expect(const std::vector<TestLayer> &layers, std::vector<float> x, int64_t batch, int64_t width) {
    for (const TestLayer &layer : layers) {
        const qconv_layer_config &c = layer.config;
        const std::vector<double> y = reference::forward(c, x.data(), batch, width, layer.weight.data(), nullptr);
        width = reference::width_out(c, width);
        x.clear();
        for (size_t i = 0; i < y.size(); ++i) {
            const size_t o = i / static_cast<size_t>(width) % static_cast<size_t>(c.out_channels);
            const double scale = layer.scale.empty() ? 1 : double{layer.scale[o]};
            x.push_back(static_cast<float>(scale * y[i] + (layer.shift.empty() ? 0 : double{layer.shift[o]})));
        }
    }
    return x;
}

std::string describe(const std::vector<TestLayer> &layers, int64_t batch, int64_t width) {
    std::string text = "batch " + std::to_string(batch) + ", width " + std::to_string(width);
    for (const TestLayer &l : layers) {
        const qconv_layer_config &c = l.config;
        char line[200];
        std::snprintf(line, sizeof line, "\n  %lld->%lld k%lld s%lld d%lld p%lld,%lld g%lld pad %g, %s/%s%s",
                      static_cast<long long>(c.in_channels), static_cast<long long>(c.out_channels),
                      static_cast<long long>(c.kernel_size), static_cast<long long>(c.stride),
                      static_cast<long long>(c.dilation), static_cast<long long>(c.pad_left),
                      static_cast<long long>(c.pad_right), static_cast<long long>(c.groups), double{c.pad_value},
                      c.kind == QCONV_LAYER_CONV1D ? "real" : qconv_quantizer_name(c.input_quantization.kind),
                      qconv_quantizer_name(c.weight_quantization.kind), l.scale.empty() ? "" : ", scaled");
        text += line;
    }
    return text;
}

/// One forward call between inaccessible pages; y is NaN before.
std::vector<float> run(const qconv_network *network, const std::vector<float> &x, int64_t batch, int64_t width,
                       size_t y_size, GuardedArena::Edge edge, bool own_workspace) {
    static GuardedArena x_arena(4 << 20), y_arena(4 << 20), workspace_arena(32 << 20);
    size_t bytes = 0;
    REQUIRE(qconv_network_workspace_size(network, batch, width, &bytes) == QCONV_OK);
    void *workspace = own_workspace ? nullptr : workspace_arena.place(bytes, 64, edge);
    const float *input = x_arena.place(x, edge);
    float *y = y_arena.place(std::vector<float>(y_size, NAN), edge);
    const qconv_status status =
        qconv_network_forward(network, input, batch, width, y, workspace, own_workspace ? 0 : bytes);
    INFO(qconv_last_error());
    REQUIRE(status == QCONV_OK);
    CHECK(x_arena.damage() == 0);
    CHECK(y_arena.damage() == 0);
    if (!own_workspace) CHECK(workspace_arena.damage() == 0);
    return {y, y + y_size};
}

/// Targets that this CPU runs, those with kernels for packed signs only.
std::vector<std::string> packing_targets() {
    std::vector<std::string> targets;
    for (const std::string &target : runnable_targets()) {
        for (size_t i = 0; i < qconv_kernel_count(); ++i) {
            const qconv_kernel &kernel = *qconv_kernel_at(i);
            if (kernel.op == QCONV_OP_TO_BITS && kernel.target == target) targets.push_back(target);
        }
    }
    return targets;
}

TEST_CASE("network: packed signs between layers, bit for bit", "[network]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const std::vector<std::string> targets = packing_targets();
    const int nets = thin() ? 12 : 150;
    int packed = 0, links = 0;
    for (int net = 0; net < nets; ++net) {
        Random random(static_cast<uint64_t>(net), 7);
        std::vector<TestLayer> layers;
        const int64_t count = 1 + random.below(4);
        for (int64_t i = 0; i < count; ++i) {
            layers.push_back(random_layer(i == 0 ? 1 + random.below(70) : layers.back().config.out_channels, i == 0,
                                          i + 1 == count, random));
        }
        const int64_t batch = 1 + random.below(4), width = 1 + random.below(random.below(2) == 0 ? 12 : 200);
        std::vector<float> x;
        for (int64_t i = 0; i < batch * layers.front().config.in_channels * width; ++i)
            x.push_back(quarter(random, 5));
        const std::vector<float> expected = expect(layers, x, batch, width);
        for (const std::string &target : targets) {
            qconv_set_num_threads(1 + net % 3);
            const NetworkPtr network = create(layers, "@" + target);
            for (size_t i = 0; i < layers.size(); ++i, ++links)
                packed += qconv_network_packed(network.get(), i);
            INFO(target << ": " << describe(layers, batch, width) << "\n  "
                        << replay("network: packed signs between layers, bit for bit"));
            const auto edge = net % 2 == 0 ? GuardedArena::Edge::End : GuardedArena::Edge::Start;
            CHECK(run(network.get(), x, batch, width, expected.size(), edge, net % 5 == 0) == expected);
        }
    }
    qconv_set_num_threads(1);
    std::printf("network: %d networks on %zu targets, %d of %d layers take packed signs\n", nets, targets.size(),
                packed, links);
    CHECK(packed >= links / 4);
}

/// in -> 64 -> 64 -> out, all signs.
std::vector<TestLayer> three_layers(Random &random) {
    std::vector<TestLayer> layers;
    for (const auto &[in, out] : {std::array{40, 64}, std::array{64, 64}, std::array{64, 10}}) {
        TestLayer layer;
        qconv_layer_config_init(&layer.config, QCONV_LAYER_QCONV1D);
        layer.config.in_channels = in, layer.config.out_channels = out, layer.config.kernel_size = 3;
        REQUIRE(qconv_layer_config_pad_same(&layer.config) == QCONV_OK);
        for (int i = 0; i < in * out * 3; ++i)
            layer.weight.push_back(quarter(random, 4));
        for (int i = 0; i < out; ++i) {
            layer.scale.push_back(quarter(random, 6));
            layer.shift.push_back(quarter(random, 40));
        }
        layers.push_back(layer);
    }
    return layers;
}

TEST_CASE("network: thresholds at the last bit", "[network]") {
    // One input channel of weight 1: y is the sign of x, times 1. The threshold of the second layer is on a float where
    // the first layer is real.
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    constexpr int channels = 32;
    TestLayer first, second;
    qconv_layer_config_init(&first.config, QCONV_LAYER_CONV1D);
    first.config.out_channels = channels;
    first.weight.assign(channels, 1.0f);
    qconv_layer_config_init(&second.config, QCONV_LAYER_QCONV1D);
    second.config.in_channels = second.config.out_channels = second.config.groups = channels;
    second.config.groups = 1;
    second.weight.assign(channels * channels, -1.0f);
    for (int i = 0; i < channels; ++i)
        second.weight[static_cast<size_t>(i * channels + i)] = 1.0f;
    Random random(11);
    for (int i = 0; i < channels; ++i) {
        first.scale.push_back(random.uniform(-3, 3));
        first.shift.push_back(random.uniform(-3, 3));
    }
    first.scale[3] = 0, first.shift[3] = 0;
    first.scale[4] = 0, first.shift[4] = -1e-30f;
    first.scale[5] = 1e-38f, first.scale[6] = -1e38f;
    for (const qconv_quantizer_kind kind : {QCONV_SIGN, QCONV_STEHEAVISIDE, QCONV_INPUTDOREFA}) {
        second.config.input_quantization = quantizer(kind, 1);
        std::vector<float> x = {0.0f, -0.0f, INFINITY, -INFINITY, 1.0f, -1.0f, 1e-45f, 3e38f};
        for (int i = 0; i < channels; ++i) { // around each channel's own turning point
            const float turn = (kind == QCONV_INPUTDOREFA ? 0.5f - first.shift[static_cast<size_t>(i)]
                                                          : -first.shift[static_cast<size_t>(i)]) /
                               first.scale[static_cast<size_t>(i)];
            if (!std::isfinite(turn)) continue;
            float v = std::nextafter(std::nextafter(turn, -INFINITY), -INFINITY);
            for (int step = 0; step < 5; ++step, v = std::nextafter(v, INFINITY))
                x.push_back(v);
        }
        const auto width = static_cast<int64_t>(x.size());
        const double threshold = kind == QCONV_INPUTDOREFA ? 0.5 : 0;
        // bits[i][w], of the exact sum; then what 32 of them give with one weight of 1 among -1.
        std::vector<float> expected(static_cast<size_t>(channels * width));
        for (int64_t w = 0; w < width; ++w) {
            std::array<int, channels> value{};
            int sum = 0;
            for (size_t i = 0; i < channels; ++i) {
                const long double v = x[static_cast<size_t>(w)];
                const long double z = first.scale[i] == 0
                                          ? first.shift[i]
                                          : static_cast<long double>(first.scale[i]) * v + first.shift[i];
                const bool one = kind == QCONV_SIGN ? z >= 0 : z > threshold;
                value[i] = one ? 1 : kind == QCONV_INPUTDOREFA ? 0 : -1;
                sum += value[i];
            }
            for (size_t o = 0; o < channels; ++o)
                expected[o * static_cast<size_t>(width) + static_cast<size_t>(w)] =
                    static_cast<float>(2 * value[o] - sum);
        }
        for (const std::string &target : packing_targets()) {
            const NetworkPtr network = create({first, second}, "@" + target);
            REQUIRE(qconv_network_packed(network.get(), 1) != 0);
            INFO(target << ", " << qconv_quantizer_name(kind));
            CHECK(run(network.get(), x, 1, width, expected.size(), GuardedArena::Edge::End, false) == expected);
            // NaN is what the quantizer says: +1 by sign, else the lower level.
            const float nan[] = {NAN};
            std::array<float, channels> y{};
            REQUIRE(qconv_network_forward(network.get(), nan, 1, 1, y.data(), nullptr, 0) == QCONV_OK);
            const float each = kind == QCONV_SIGN ? 1.0f : kind == QCONV_STEHEAVISIDE ? -1.0f : 0.0f;
            CHECK(y[0] == 2 * each - static_cast<float>(channels) * each - (kind == QCONV_SIGN ? -2.0f : 0.0f));
        }
    }
}

TEST_CASE("network: repeated calls allocate nothing, failing allocators are reported", "[network]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    Random random(3);
    const std::vector<TestLayer> layers = three_layers(random);
    std::vector<float> x(2 * 40 * 100), y(2 * 10 * 100), again(y.size());
    for (float &v : x)
        v = quarter(random, 5);
    bool complete = false;
    for (int64_t allowed = 0; allowed < 100 && !complete; ++allowed) {
        Counter counter;
        counter.fail_from = allowed;
        {
            const Hooked hooked(counter);
            std::vector<qconv_network_layer> rows;
            for (const TestLayer &l : layers)
                rows.push_back({l.config, l.weight.data(), nullptr, l.scale.data(), l.shift.data()});
            qconv_network *raw = nullptr;
            qconv_status status = qconv_network_create(rows.data(), rows.size(), &raw);
            const NetworkPtr network(raw);
            if (status == QCONV_OK) status = qconv_network_forward(raw, x.data(), 2, 100, y.data(), nullptr, 0);
            complete = status == QCONV_OK;
            if (!complete) CHECK(status == QCONV_OUT_OF_MEMORY);
            if (complete) {
                const int64_t warm = counter.allocations;
                for (int i = 0; i < 5; ++i)
                    CHECK(qconv_network_forward(raw, x.data(), 2, 100, again.data(), nullptr, 0) == QCONV_OK);
                CHECK(counter.allocations == warm);
                CHECK(again == y);
            }
        }
        CHECK(counter.outstanding == 0);
    }
    CHECK(complete);
    CHECK(y == expect(layers, x, 2, 100));
}

TEST_CASE("network: bad input", "[network]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    Random random(4);
    const std::vector<TestLayer> good = three_layers(random);
    const auto fails = [&](auto spoil, const char *field, const char *value) {
        std::vector<TestLayer> layers = good;
        std::vector<qconv_network_layer> rows;
        for (const TestLayer &l : layers)
            rows.push_back({l.config, l.weight.data(), nullptr, l.scale.data(), l.shift.data()});
        spoil(rows, layers);
        qconv_network *network = nullptr;
        CHECK(qconv_network_create(rows.data(), rows.size(), &network) == QCONV_INVALID_ARGUMENT);
        CHECK(network == nullptr);
        const std::string text = qconv_last_error();
        INFO(text);
        CHECK(text.find(field) != std::string::npos);
        CHECK(text.find(value) != std::string::npos);
    };
    using Rows = std::vector<qconv_network_layer>;
    using Layers = std::vector<TestLayer>;
    fails([](Rows &rows, Layers &) { rows[1].config.in_channels = 63; }, "layers[1].in_channels", "64");
    fails([](Rows &rows, Layers &) { rows[2].config.stride = 0; }, "layers[2].stride", "0");
    fails([](Rows &rows, Layers &) { rows[1].weight = nullptr; }, "layers[1].weight", "NULL");
    fails([](Rows &, Layers &layers) { layers[1].scale[7] = NAN; }, "layers[1]: scale[7]", "nan");
    fails([](Rows &, Layers &layers) { layers[0].shift[0] = INFINITY; }, "layers[0]: shift[0]", "inf");
    fails([](Rows &rows, Layers &) { rows[0].bias = rows[0].shift; }, "layers[0]", "conv1d");
    fails([](Rows &rows, Layers &) { rows.clear(); }, "", "");
    CHECK(qconv_network_create(nullptr, 1, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_network_packed(nullptr, 0) == 0);

    const NetworkPtr network = create(good, "");
    float value = 0;
    int64_t width = 0;
    size_t bytes = 0;
    CHECK(qconv_network_width_out(network.get(), 0, &width) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_network_workspace_size(network.get(), -1, 10, &bytes) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_network_workspace_size(network.get(), 1, 1 << 30, &bytes) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_network_forward(network.get(), nullptr, 1, 10, &value, nullptr, 0) == QCONV_INVALID_ARGUMENT);
    alignas(64) char small[64];
    CHECK(qconv_network_forward(network.get(), &value, 1, 10, &value, small, sizeof small) ==
          QCONV_WORKSPACE_TOO_SMALL);
    CHECK(qconv_network_forward(network.get(), nullptr, 0, 10, nullptr, nullptr, 0) == QCONV_OK);
    const float variance[] = {-1.0f}, mean[] = {0.0f};
    CHECK(qconv_fold_batch_norm(1, mean, variance, nullptr, nullptr, 1e-5, &value, &value) == QCONV_INVALID_ARGUMENT);
}

} // namespace
} // namespace qconv::test
