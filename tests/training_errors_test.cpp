// Bad input to the training functions, and what a layer says it saves.
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "qconv/qconv.hpp"
#include "support/catch.h"
#include "support/layer_case.h"

namespace qconv::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kIn = 6, kOut = 8, kTaps = 3, kBatch = 2, kWidth = 40;

qconv_layer_config training_config(qconv_layer_kind kind = QCONV_LAYER_QCONV1D, uint32_t directions = QCONV_TRAINING) {
    qconv_layer_config result = config(kind, kIn, kOut, kTaps);
    result.pad_left = result.pad_right = 1;
    result.directions = directions;
    return result;
}

/// The last error mentions this.
void check_message(const std::string &part) {
    INFO("message: " << qconv_last_error() << "; wanted: " << part);
    CHECK(std::string(qconv_last_error()).find(part) != std::string::npos);
}

/// A layer with tensors of the right size, all of them unwritten or plain.
struct Setup {
    qconv_layer_config config;
    std::vector<float> weight = std::vector<float>(kOut * kIn * kTaps, 0.5f), bias = std::vector<float>(kOut, 1.0f);
    LayerPtr layer;
    std::vector<float> x = std::vector<float>(kBatch * kIn * kWidth, 0.25f);
    std::vector<float> y = std::vector<float>(kBatch * kOut * kWidth, 7.0f), gy = y;
    std::vector<float> gx = std::vector<float>(x.size(), 7.0f), gw = std::vector<float>(weight.size(), 7.0f);
    std::vector<float> gb = std::vector<float>(kOut, 7.0f);
    std::vector<uint32_t> state;

    explicit Setup(const qconv_layer_config &c) : config(c) {
        REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
        qconv_layer *created = nullptr;
        const float *b = c.kind == QCONV_LAYER_CONV1D ? bias.data() : nullptr;
        const qconv_status status = qconv_layer_create(&c, weight.data(), b, &created);
        INFO(qconv_last_error());
        REQUIRE(status == QCONV_OK);
        layer.reset(created);
        size_t bytes = 0;
        REQUIRE(qconv_layer_state_size(created, kBatch, kWidth, &bytes) == QCONV_OK);
        state.assign(bytes / sizeof(uint32_t), 0x77777777U);
    }

    qconv_status forward(void *state_at, size_t bytes) {
        return qconv_layer_forward_training(layer.get(), x.data(), kBatch, kWidth, y.data(), state_at, bytes, nullptr,
                                            0);
    }
    qconv_status forward() { return forward(state.data(), state.size() * sizeof(uint32_t)); }
    qconv_status backward(const float *at_x, const void *state_at, size_t bytes, float *at_gx, float *at_gw,
                          float *at_gb = nullptr) {
        return qconv_layer_backward(layer.get(), at_x, state_at, bytes, gy.data(), kBatch, kWidth, at_gx, at_gw, at_gb,
                                    nullptr, 0);
    }
    size_t state_bytes() const { return state.size() * sizeof(uint32_t); }
};

TEST_CASE("training errors: threshold and directions", "[errors]") {
    qconv_layer_config bad = training_config();
    for (const float threshold : {0.0f, 1.0f, 1e30f, kInfinity, kNaN}) {
        bad.gradient_cancellation_threshold = threshold;
        CHECK(qconv_layer_config_check(&bad) == QCONV_OK);
    }
    for (const float threshold : {-1.0f, -1e-30f, -kInfinity}) {
        bad.gradient_cancellation_threshold = threshold;
        CHECK(qconv_layer_config_check(&bad) == QCONV_INVALID_ARGUMENT);
        check_message("gradient_cancellation_threshold is -");
        check_message("NaN");
        bad.kind = QCONV_LAYER_NOACT; // which has no threshold
        CHECK(qconv_layer_config_check(&bad) == QCONV_OK);
        bad.kind = QCONV_LAYER_QCONV1D;
    }
    bad = training_config();
    for (uint32_t directions = 1; directions <= QCONV_TRAINING; ++directions) {
        bad.directions = directions;
        CHECK(qconv_layer_config_check(&bad) == QCONV_OK);
    }
    for (const uint32_t directions : {0U, 8U, 15U, 0xffffffffU}) {
        bad.directions = directions;
        CHECK(qconv_layer_config_check(&bad) == QCONV_INVALID_ARGUMENT);
        check_message("directions is " + std::to_string(directions));
        check_message("1..7");
    }
    qconv_layer_config defaults;
    qconv_layer_config_init(&defaults, QCONV_LAYER_QCONV1D);
    CHECK(defaults.directions == QCONV_FORWARD);
    CHECK(std::isnan(defaults.gradient_cancellation_threshold));
    CHECK(defaults.grad_input_kernel == nullptr);
    CHECK(defaults.grad_weight_kernel == nullptr);
}

TEST_CASE("training errors: a direction that the layer was not created for", "[errors]") {
    for (uint32_t directions = 1; directions < QCONV_TRAINING; ++directions) {
        Setup s(training_config(QCONV_LAYER_QCONV1D, directions));
        const auto has = [&](qconv_direction d) { return (directions & d) != 0; };
        for (const auto d : {QCONV_FORWARD, QCONV_GRAD_INPUT, QCONV_GRAD_WEIGHT})
            CHECK((qconv_layer_kernel(s.layer.get(), d) != nullptr) == has(d));
        CHECK(qconv_layer_kernel(s.layer.get(), QCONV_TRAINING) == nullptr);

        const qconv_status forward =
            qconv_layer_forward(s.layer.get(), s.x.data(), kBatch, kWidth, s.y.data(), nullptr, 0);
        CHECK(forward == (has(QCONV_FORWARD) ? QCONV_OK : QCONV_INVALID_ARGUMENT));
        if (!has(QCONV_FORWARD)) check_message("directions is " + std::to_string(directions));
        CHECK(s.forward() == forward);
        std::vector<uint32_t> state(kBatch * kIn * 2 * 2); // more than any layer here saves
        const auto run = [&](float *gx, float *gw) {
            return s.backward(nullptr, state.data(), state.size() * 4, gx, gw);
        };
        CHECK(run(s.gx.data(), nullptr) == (has(QCONV_GRAD_INPUT) ? QCONV_OK : QCONV_INVALID_ARGUMENT));
        if (!has(QCONV_GRAD_INPUT)) check_message("grad_input");
        CHECK(run(nullptr, s.gw.data()) == (has(QCONV_GRAD_WEIGHT) ? QCONV_OK : QCONV_INVALID_ARGUMENT));
        if (!has(QCONV_GRAD_WEIGHT)) check_message("grad_weight");
        CHECK(run(nullptr, nullptr) == QCONV_OK);
    }
}

TEST_CASE("training errors: pointers, sizes and alignment", "[errors]") {
    Setup s(training_config());
    REQUIRE(s.state_bytes() == kBatch * kIn * 2 * 2 * sizeof(uint32_t));
    const qconv_layer *layer = s.layer.get();
    size_t bytes = 55;
    CHECK(qconv_layer_state_size(nullptr, 1, 10, &bytes) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_state_size(layer, 1, 10, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_training_workspace_size(nullptr, 1, 10, &bytes) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_training_workspace_size(layer, 1, 10, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_training_workspace_size(layer, -1, 10, &bytes) == QCONV_INVALID_ARGUMENT);
    check_message("batch is -1");
    CHECK(qconv_layer_state_size(layer, 1, 0, &bytes) == QCONV_INVALID_ARGUMENT);
    check_message("width is 0");
    CHECK(bytes == 55);
    CHECK(qconv_layer_saved(nullptr) == QCONV_SAVES_NOTHING);
    CHECK(qconv_layer_kernel(nullptr, QCONV_FORWARD) == nullptr);
    CHECK(qconv_layer_set_weights(nullptr, s.weight.data(), nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_set_weights(s.layer.get(), nullptr, nullptr) == QCONV_INVALID_ARGUMENT);
    check_message("weight");
    CHECK(qconv_layer_set_weights(s.layer.get(), s.weight.data(), s.bias.data()) == QCONV_INVALID_ARGUMENT);
    check_message("bias");

    CHECK(s.forward(nullptr, 0) == QCONV_INVALID_ARGUMENT);
    check_message("state");
    CHECK(s.forward(s.state.data(), s.state_bytes() - 1) == QCONV_INVALID_ARGUMENT);
    check_message("state_bytes is " + std::to_string(s.state_bytes() - 1));
    check_message("needs " + std::to_string(s.state_bytes()));
    CHECK(s.forward(reinterpret_cast<char *>(s.state.data()) + 1, s.state_bytes()) == QCONV_INVALID_ARGUMENT);
    check_message("4 bytes");
    CHECK(s.y == std::vector<float>(s.y.size(), 7.0f));
    CHECK(s.state == std::vector<uint32_t>(s.state.size(), 0x77777777U));

    REQUIRE(s.forward() == QCONV_OK);
    CHECK(s.backward(s.x.data(), nullptr, 0, s.gx.data(), s.gw.data()) == QCONV_INVALID_ARGUMENT);
    check_message("state");
    CHECK(s.backward(nullptr, s.state.data(), 4, s.gx.data(), s.gw.data()) == QCONV_INVALID_ARGUMENT);
    check_message("state_bytes is 4");
    CHECK(qconv_layer_backward(layer, nullptr, s.state.data(), s.state_bytes(), nullptr, kBatch, kWidth, s.gx.data(),
                               nullptr, nullptr, nullptr, 0) == QCONV_INVALID_ARGUMENT);
    check_message("grad_output");
    CHECK(s.backward(nullptr, s.state.data(), s.state_bytes(), s.gx.data(), s.gw.data(), s.gb.data()) ==
          QCONV_INVALID_ARGUMENT);
    check_message("grad_bias");
    CHECK(s.gx == std::vector<float>(s.gx.size(), 7.0f));
    CHECK(s.gw == std::vector<float>(s.gw.size(), 7.0f));

    qconv_layer_config approximate = training_config();
    approximate.input_quantization = quantizer(QCONV_APPROXSIGN);
    Setup keeps(approximate);
    CHECK(keeps.state.empty());
    CHECK(keeps.backward(nullptr, nullptr, 0, keeps.gx.data(), nullptr) == QCONV_INVALID_ARGUMENT);
    check_message("x is NULL");
    CHECK(keeps.backward(nullptr, nullptr, 0, nullptr, keeps.gw.data()) == QCONV_INVALID_ARGUMENT);
    CHECK(keeps.backward(keeps.x.data(), nullptr, 0, keeps.gx.data(), keeps.gw.data()) == QCONV_OK);
}

TEST_CASE("training errors: what a layer saves", "[errors]") {
    struct Row {
        qconv_quantizer_kind input;
        float mix, threshold;
        std::array<qconv_saved, 3> expected; // for grad_input, grad_weight, both
    };
    const qconv_saved nothing = QCONV_SAVES_NOTHING, state = QCONV_SAVES_STATE, x = QCONV_SAVES_INPUT;
    const Row rows[] = {
        {QCONV_SIGN, 0, kNaN, {nothing, state, state}},
        {QCONV_SIGN, 0, 1, {state, state, state}},
        {QCONV_PROGRESSIVE_SIGN, 0, 1, {state, state, state}}, // in evaluation it is sign
        {QCONV_STEHEAVISIDE, 0, kNaN, {state, state, state}},
        {QCONV_APPROXSIGN, 0, kNaN, {x, x, x}},
        {QCONV_SWISHSIGN, 0, 1, {x, x, x}},
        {QCONV_INPUTDOREFA, 0, kNaN, {nothing, state, state}},
        {QCONV_INPUTDOREFA, 0, 1, {state, state, state}},
        {QCONV_WEIGHTDOREFA, 0, 1, {x, x, x}},
        {QCONV_IDENTITY, 0, kNaN, {nothing, x, x}},
        {QCONV_SIGN, 0.5f, kNaN, {nothing, x, x}},
        {QCONV_SIGN, 0.5f, 1, {x, x, x}},
    };
    for (const Row &row : rows) {
        const std::array directions{QCONV_FORWARD | QCONV_GRAD_INPUT, QCONV_FORWARD | QCONV_GRAD_WEIGHT,
                                    int{QCONV_TRAINING}};
        for (size_t i = 0; i < directions.size(); ++i) {
            qconv_layer_config c = training_config(QCONV_LAYER_QCONV1D, static_cast<uint32_t>(directions[i]));
            c.input_quantization = qconv_quantizer_default(row.input);
            c.input_next = qconv_quantizer_default(QCONV_IDENTITY);
            c.input_mix = row.mix;
            c.gradient_cancellation_threshold = row.threshold;
            Setup s(c);
            INFO(qconv_quantizer_name(row.input)
                 << ", mix " << row.mix << ", threshold " << row.threshold << ", " << directions[i]);
            CHECK(qconv_layer_saved(s.layer.get()) == row.expected[i]);
            CHECK(s.state.empty() == (row.expected[i] != QCONV_SAVES_STATE));
        }
        Setup inference(training_config(QCONV_LAYER_QCONV1D, QCONV_FORWARD));
        CHECK(qconv_layer_saved(inference.layer.get()) == QCONV_SAVES_NOTHING);
    }
    for (const auto kind : {QCONV_LAYER_CONV1D, QCONV_LAYER_NOACT}) {
        qconv_layer_config c = training_config(kind);
        c.gradient_cancellation_threshold = 1; // for QConv1d only
        CHECK(qconv_layer_saved(Setup(c).layer.get()) == QCONV_SAVES_INPUT);
        c.directions = QCONV_FORWARD | QCONV_GRAD_INPUT;
        CHECK(qconv_layer_saved(Setup(c).layer.get()) == QCONV_SAVES_NOTHING);
    }
}

TEST_CASE("training errors: an empty batch", "[errors]") {
    for (const auto kind : {QCONV_LAYER_CONV1D, QCONV_LAYER_NOACT, QCONV_LAYER_QCONV1D}) {
        Setup s(training_config(kind));
        float *bias = kind == QCONV_LAYER_CONV1D ? s.gb.data() : nullptr;
        const qconv_layer *layer = s.layer.get();
        size_t bytes = 55;
        CHECK(qconv_layer_state_size(layer, 0, kWidth, &bytes) == QCONV_OK);
        CHECK(bytes == 0);
        CHECK(qconv_layer_forward_training(layer, nullptr, 0, kWidth, nullptr, nullptr, 0, nullptr, 0) == QCONV_OK);
        CHECK(qconv_layer_backward(layer, nullptr, nullptr, 0, nullptr, 0, kWidth, s.gx.data(), s.gw.data(), bias,
                                   nullptr, 0) == QCONV_OK);
        CHECK(s.gx == std::vector<float>(s.gx.size(), 7.0f)); // it has no elements
        CHECK(s.gw == std::vector<float>(s.gw.size(), 0.0f));
        if (bias != nullptr) CHECK(s.gb == std::vector<float>(s.gb.size(), 0.0f));
    }
}

TEST_CASE("training errors: the C++ layer checks sizes", "[errors]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    Setup s(training_config());
    Layer layer(s.config, s.weight);
    CHECK(layer.saved() == QCONV_SAVES_STATE);
    REQUIRE(layer.state_words(kBatch, kWidth) == s.state.size());
    CHECK(layer.training_workspace_size(kBatch, kWidth) > 0);
    layer.forward_training(s.x, kBatch, kWidth, s.y, s.state);
    layer.backward({}, s.state, s.gy, kBatch, kWidth, {.input = s.gx, .weight = s.gw, .bias = {}});
    const auto refused = [](const auto &body, const char *field) {
        try {
            body();
        } catch (const Error &error) {
            INFO(error.what());
            CHECK(std::string(error.what()).find(field) == 0);
            return true;
        }
        return false;
    };
    const std::span<float> gx(s.gx), gw(s.gw);
    const std::span<const float> weight(s.weight), gy(s.gy);
    CHECK(refused([&] { layer.set_weights(weight.first(3)); }, "weight"));
    CHECK(refused([&] { layer.set_weights(s.weight, weight.first(3)); }, "bias"));
    CHECK(refused(
        [&] { layer.backward({}, s.state, gy.first(9), kBatch, kWidth, {.input = gx, .weight = {}, .bias = {}}); },
        "grad_output"));
    CHECK(refused(
        [&] { layer.backward({}, s.state, gy, kBatch, kWidth, {.input = gx.first(5), .weight = {}, .bias = {}}); },
        "grad_input"));
    CHECK(refused(
        [&] { layer.backward({}, s.state, gy, kBatch, kWidth, {.input = {}, .weight = gw.first(5), .bias = {}}); },
        "grad_weight"));
    CHECK(
        refused([&] { layer.forward_training(s.x, kBatch, kWidth, s.y, std::span(s.state).first(4)); }, "state_bytes"));
    CHECK(&layer.kernel(QCONV_GRAD_WEIGHT) == qconv_layer_kernel(layer.get(), QCONV_GRAD_WEIGHT));
    qconv_layer_config forward = s.config;
    forward.directions = QCONV_FORWARD;
    const Layer inference(forward, s.weight);
    CHECK(refused([&] { (void)inference.kernel(QCONV_GRAD_INPUT); }, "the layer"));
}

} // namespace
} // namespace qconv::test
