// Bad input: every status, and messages that name the field, its value and what is allowed.
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "qconv/qconv.h"
#include "support/catch.h"
#include "support/layer_case.h"

namespace qconv::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A good layer of each kind: 6 channels in, 8 out, kernel 3, padding 1.
qconv_layer_config good_config(qconv_layer_kind kind = QCONV_LAYER_QCONV1D) {
    qconv_layer_config config;
    qconv_layer_config_init(&config, kind);
    config.in_channels = 6;
    config.out_channels = 8;
    config.kernel_size = 3;
    config.pad_left = config.pad_right = 1;
    return config;
}

struct BadField {
    const char *field; // the message must name it
    const char *value; // and its value
    std::function<void(qconv_layer_config &)> spoil;
    qconv_layer_kind kind = QCONV_LAYER_QCONV1D;
};

using Config = qconv_layer_config;

const std::vector<BadField> &bad_fields() {
    static const std::vector<BadField> all = {
        {"in_channels", "0", [](Config &c) { c.in_channels = 0; }},
        {"in_channels", "-6", [](Config &c) { c.in_channels = -6; }},
        {"in_channels", "6", [](Config &c) { c.groups = 4; }},
        {"out_channels", "0", [](Config &c) { c.out_channels = 0; }},
        {"out_channels", "8", [](Config &c) { c.groups = 3; }},
        {"out_channels", "-9223372036854775808", [](Config &c) { c.out_channels = INT64_MIN; }},
        {"kernel_size", "0", [](Config &c) { c.kernel_size = 0; }},
        {"kernel_size", "-1", [](Config &c) { c.kernel_size = -1; }},
        {"stride", "0", [](Config &c) { c.stride = 0; }},
        {"stride", "-2", [](Config &c) { c.stride = -2; }},
        {"pad_left", "-1", [](Config &c) { c.pad_left = -1; }},
        {"pad_right", "-3", [](Config &c) { c.pad_right = -3; }},
        {"dilation", "0", [](Config &c) { c.dilation = 0; }},
        {"dilation", "-7", [](Config &c) { c.dilation = -7; }},
        {"groups", "0", [](Config &c) { c.groups = 0; }},
        {"groups", "-1", [](Config &c) { c.groups = -1; }},
        {"pad_value", "nan", [](Config &c) { c.pad_value = kNaN; }},
        {"pad_value", "inf", [](Config &c) { c.pad_value = kInfinity; }},
        {"pad_value", "1", [](Config &c) { c.pad_value = 1; }, QCONV_LAYER_CONV1D},
        {"kind", "3", [](Config &c) { c.kind = QCONV_LAYER_KINDS; }},
        {"input_quantization", "15",
         [](Config &c) { c.input_quantization.kind = static_cast<qconv_quantizer_kind>(15); }},
        {"weight_quantization", "8",
         [](Config &c) { c.weight_quantization.kind = static_cast<qconv_quantizer_kind>(8); }},
        {"input_quantization", "0", [](Config &c) { c.input_quantization = quantizer(QCONV_INPUTDOREFA, 0); }},
        {"input_quantization", "9", [](Config &c) { c.input_quantization = quantizer(QCONV_INPUTDOREFA, 9); }},
        {"weight_quantization", "-4", [](Config &c) { c.weight_quantization = quantizer(QCONV_WEIGHTDOREFA, -4); }},
        {"weight_quantization", "32", [](Config &c) { c.weight_quantization = quantizer(QCONV_WEIGHTDOREFA, 32); },
         QCONV_LAYER_NOACT},
        {"input_mix", "nan", [](Config &c) { c.input_mix = kNaN; }},
        {"input_mix", "1.5", [](Config &c) { c.input_mix = 1.5f; }},
        {"weight_mix", "-0.25", [](Config &c) { c.weight_mix = -0.25f; }},
        {"input_next", "12",
         [](Config &c) {
             c.input_mix = 0.5f;
             c.input_next = quantizer(QCONV_INPUTDOREFA, 12);
         }},
        {"weight_next", "11",
         [](Config &c) {
             c.weight_mix = 0.5f;
             c.weight_next.kind = static_cast<qconv_quantizer_kind>(11);
         }},
        {"scale", "nan",
         [](Config &c) {
             c.input_quantization = quantizer(QCONV_PROGRESSIVE_SIGN);
             c.input_quantization.training = 1;
             c.input_quantization.scale = kNaN;
         }},
        {"alpha", "-1",
         [](Config &c) {
             c.input_quantization = quantizer(QCONV_PROGRESSIVE_SIGN);
             c.input_quantization.training = 1;
             c.input_quantization.alpha = -1;
         }},
        {"beta", "inf",
         [](Config &c) {
             c.input_quantization = quantizer(QCONV_PROGRESSIVE_SIGN);
             c.input_quantization.training = 1;
             c.input_quantization.beta = kInfinity;
         }},
    };
    return all;
}

/// The message names field and value, in that order, and goes on to say what is allowed.
void check_message(const BadField &bad) {
    const std::string text = qconv_last_error();
    INFO("message: " << text);
    const size_t field = text.find(bad.field);
    REQUIRE(field != std::string::npos);
    const size_t value = text.find(bad.value, field);
    REQUIRE(value != std::string::npos);
    CHECK(text.size() > value + std::string(bad.value).size() + 4);
}

TEST_CASE("errors: every field of a layer", "[errors]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const std::vector<float> weight(6 * 8 * 3, 0.5f);
    for (const auto kind : {QCONV_LAYER_CONV1D, QCONV_LAYER_NOACT, QCONV_LAYER_QCONV1D}) {
        qconv_layer_config config = good_config(kind);
        REQUIRE(qconv_layer_config_check(&config) == QCONV_OK);
    }
    for (const BadField &bad : bad_fields()) {
        INFO(bad.field << " = " << bad.value);
        qconv_layer_config config = good_config(bad.kind);
        bad.spoil(config);
        REQUIRE(qconv_layer_config_check(&config) == QCONV_INVALID_ARGUMENT);
        check_message(bad);
        qconv_layer *const untouched = reinterpret_cast<qconv_layer *>(uintptr_t{64});
        qconv_layer *layer = untouched;
        CHECK(qconv_layer_create(&config, weight.data(), nullptr, &layer) == QCONV_INVALID_ARGUMENT);
        CHECK(layer == untouched);
        check_message(bad);
    }
}

TEST_CASE("errors: fields that a layer does not use are not checked", "[errors]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_layer_config config = good_config(QCONV_LAYER_CONV1D);
    config.input_quantization = config.weight_quantization = quantizer(QCONV_INPUTDOREFA, 99);
    CHECK(qconv_layer_config_check(&config) == QCONV_OK);
    config = good_config(QCONV_LAYER_NOACT);
    config.input_quantization = quantizer(QCONV_INPUTDOREFA, 99);
    CHECK(qconv_layer_config_check(&config) == QCONV_OK);
    config = good_config();
    config.input_next.kind = static_cast<qconv_quantizer_kind>(15); // input_mix is 0
    CHECK(qconv_layer_config_check(&config) == QCONV_OK);
    config.input_quantization.bits = 99; // sign has no bits
    CHECK(qconv_layer_config_check(&config) == QCONV_OK);
}

TEST_CASE("errors: sizes that overflow", "[errors]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const auto refused = [](const std::function<void(qconv_layer_config &)> &spoil) {
        qconv_layer_config config = good_config();
        spoil(config);
        const float weight = 1;
        qconv_layer *layer = nullptr;
        const qconv_status status = qconv_layer_create(&config, &weight, nullptr, &layer);
        qconv_layer_destroy(layer);
        INFO("message: " << qconv_last_error());
        CHECK(std::string(qconv_last_error()) != "");
        return status != QCONV_OK && status != QCONV_INTERNAL;
    };
    constexpr int64_t kHuge = INT64_MAX;
    CHECK(refused([](Config &c) { c.in_channels = kHuge - 1; }));
    CHECK(refused([](Config &c) { c.out_channels = kHuge; }));
    CHECK(refused([](Config &c) { c.kernel_size = kHuge; }));
    CHECK(refused([](Config &c) { c.dilation = kHuge; }));
    CHECK(refused([](Config &c) { c.pad_left = c.pad_right = kHuge; }));
    CHECK(refused([](Config &c) { c.in_channels = c.out_channels = c.kernel_size = int64_t{1} << 31; }));
    CHECK(refused([](Config &c) { c.kernel_size = c.dilation = int64_t{1} << 32; }));
    CHECK(refused([](Config &c) { c.stride = kHuge; }));
}

TEST_CASE("errors: pointers", "[errors]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const qconv_layer_config config = good_config(), plain = good_config(QCONV_LAYER_CONV1D);
    const std::vector<float> weight(6 * 8 * 3, 0.5f), bias(8, 0.0f);
    qconv_layer *layer = nullptr;
    const auto names = [](const char *what) { return std::string(qconv_last_error()).find(what) != std::string::npos; };

    CHECK(qconv_layer_config_check(nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(names("config"));
    CHECK(qconv_layer_create(nullptr, weight.data(), nullptr, &layer) == QCONV_INVALID_ARGUMENT);
    CHECK(names("config"));
    CHECK(qconv_layer_create(&config, nullptr, nullptr, &layer) == QCONV_INVALID_ARGUMENT);
    CHECK(names("weight"));
    CHECK(qconv_layer_create(&config, weight.data(), nullptr, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(names("layer"));
    CHECK(qconv_layer_create(&config, weight.data(), bias.data(), &layer) == QCONV_INVALID_ARGUMENT);
    CHECK(names("bias"));
    CHECK(layer == nullptr);
    CHECK(qconv_layer_config_pad_same(nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_quantizer_from_name(nullptr, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_register_kernels(nullptr, 1) == QCONV_INVALID_ARGUMENT);
    qconv_layer_destroy(nullptr);

    REQUIRE(qconv_layer_create(&plain, weight.data(), bias.data(), &layer) == QCONV_OK);
    const LayerPtr owner(layer);
    std::vector<float> x(6 * 10, 1.0f), y(8 * 10, 7.0f);
    int64_t width_out = 55;
    size_t bytes = 55;
    CHECK(qconv_layer_width_out(nullptr, 10, &width_out) == QCONV_INVALID_ARGUMENT);
    CHECK(names("layer"));
    CHECK(qconv_layer_width_out(layer, 10, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_workspace_size(nullptr, 1, 10, &bytes) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_workspace_size(layer, 1, 10, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_layer_forward(nullptr, x.data(), 1, 10, y.data(), nullptr, 0) == QCONV_INVALID_ARGUMENT);
    CHECK(names("layer"));
    CHECK(qconv_layer_forward(layer, nullptr, 1, 10, y.data(), nullptr, 0) == QCONV_INVALID_ARGUMENT);
    CHECK(names("x"));
    CHECK(qconv_layer_forward(layer, x.data(), 1, 10, nullptr, nullptr, 0) == QCONV_INVALID_ARGUMENT);
    CHECK(names("y"));
    CHECK(width_out == 55);
    CHECK(bytes == 55);
    CHECK(y == std::vector<float>(8 * 10, 7.0f));
}

TEST_CASE("errors: input sizes", "[errors]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_layer_config config = good_config();
    config.pad_left = config.pad_right = 0;
    config.dilation = 2; // a window of 5
    const std::vector<float> weight(6 * 8 * 3, 0.5f);
    qconv_layer *layer = nullptr;
    REQUIRE(qconv_layer_create(&config, weight.data(), nullptr, &layer) == QCONV_OK);
    const LayerPtr owner(layer);
    std::vector<float> x(6 * 10, 1.0f), y(8 * 10, 7.0f);
    const auto fails = [&](int64_t batch, int64_t width, const char *field, const char *value) {
        int64_t width_out = 0;
        size_t bytes = 0;
        const qconv_status forward = qconv_layer_forward(layer, x.data(), batch, width, y.data(), nullptr, 0);
        const std::string text = qconv_last_error();
        INFO("message: " << text);
        CHECK(text.find(field) != std::string::npos);
        CHECK(text.find(value) != std::string::npos);
        CHECK(qconv_layer_workspace_size(layer, batch, width, &bytes) == QCONV_INVALID_ARGUMENT);
        if (batch >= 0) CHECK(qconv_layer_width_out(layer, width, &width_out) == QCONV_INVALID_ARGUMENT);
        return forward == QCONV_INVALID_ARGUMENT;
    };
    CHECK(fails(1, 4, "width", "4"));
    CHECK(fails(1, 0, "width", "0"));
    CHECK(fails(1, -10, "width", "-10"));
    CHECK(fails(-1, 10, "batch", "-1"));
    size_t bytes = 0;
    CHECK(qconv_layer_workspace_size(layer, INT64_MAX, 10, &bytes) != QCONV_OK);
    CHECK(qconv_layer_workspace_size(layer, 1, INT64_MAX, &bytes) != QCONV_OK);
    CHECK(qconv_layer_forward(layer, x.data(), INT64_MAX / 2, 10, y.data(), nullptr, 0) != QCONV_OK);
    CHECK(qconv_layer_forward(layer, x.data(), 1, INT64_MAX / 2, y.data(), nullptr, 0) != QCONV_OK);
    CHECK(y == std::vector<float>(8 * 10, 7.0f));
    int64_t width_out = 0;
    CHECK(qconv_layer_width_out(layer, 5, &width_out) == QCONV_OK);
    CHECK(width_out == 1);
}

TEST_CASE("errors: padding 'same'", "[errors]") {
    qconv_layer_config config = good_config();
    config.kernel_size = 4;
    config.dilation = 3;
    REQUIRE(qconv_layer_config_pad_same(&config) == QCONV_OK);
    CHECK(config.pad_left == 4); // 9 in all, the smaller half left
    CHECK(config.pad_right == 5);
    config.stride = 2;
    config.pad_left = config.pad_right = 77;
    CHECK(qconv_layer_config_pad_same(&config) == QCONV_INVALID_ARGUMENT);
    CHECK(std::string(qconv_last_error()).find("stride") != std::string::npos);
    CHECK(config.pad_left == 77);
    CHECK(config.pad_right == 77);
}

TEST_CASE("errors: names", "[errors]") {
    static const char *const names[QCONV_QUANTIZER_KINDS] = {
        "identity",     "sign",        "approxsign",   "swishsign",
        "steheaviside", "inputdorefa", "weightdorefa", "progressive_sign"};
    for (int i = 0; i < QCONV_QUANTIZER_KINDS; ++i) {
        const auto kind = static_cast<qconv_quantizer_kind>(i);
        REQUIRE(qconv_quantizer_name(kind) != nullptr);
        CHECK(std::string(qconv_quantizer_name(kind)) == names[i]);
        qconv_quantizer_kind found = QCONV_QUANTIZER_KINDS;
        CHECK(qconv_quantizer_from_name(names[i], &found) == QCONV_OK);
        CHECK(found == kind);
        CHECK(qconv_quantizer_default(kind).kind == kind);
        CHECK(qconv_quantizer_default(kind).bits == 1);
        CHECK(qconv_quantizer_default(kind).training == 0);
    }
    CHECK(qconv_quantizer_default(QCONV_SWISHSIGN).beta == 5);
    CHECK(qconv_quantizer_default(QCONV_PROGRESSIVE_SIGN).beta == 10);
    CHECK(qconv_quantizer_default(QCONV_PROGRESSIVE_SIGN).alpha == 4);
    CHECK(qconv_quantizer_name(QCONV_QUANTIZER_KINDS) == nullptr);
    CHECK(qconv_quantizer_name(static_cast<qconv_quantizer_kind>(15)) == nullptr);
    qconv_quantizer_kind kind = QCONV_SIGN;
    CHECK(qconv_quantizer_from_name("sgin", &kind) == QCONV_INVALID_ARGUMENT);
    CHECK(std::string(qconv_last_error()).find("sgin") != std::string::npos);
    CHECK(std::string(qconv_last_error()).find("sign") != std::string::npos);
    CHECK(kind == QCONV_SIGN);

    std::set<std::string> seen;
    for (int i = QCONV_OK; i <= QCONV_INTERNAL; ++i)
        seen.insert(qconv_status_name(static_cast<qconv_status>(i)));
    CHECK(seen.size() == QCONV_INTERNAL + 1);
    REQUIRE(qconv_status_name(static_cast<qconv_status>(7)) != nullptr);
    CHECK(std::string(qconv_path_name(QCONV_PATH_B1B1)) == "b1b1");
    CHECK(std::string(qconv_path_name(QCONV_PATH_INT8)) == "int8");
    CHECK(std::string(qconv_path_name(QCONV_PATH_F32B1)) == "f32b1");
    CHECK(std::string(qconv_path_name(QCONV_PATH_F32F32)) == "f32f32");
    CHECK(std::string(qconv_version()).find('.') != std::string::npos);
}

TEST_CASE("errors: the last error belongs to its thread", "[errors]") {
    qconv_quantizer_kind kind;
    REQUIRE(qconv_quantizer_from_name("mine", &kind) != QCONV_OK);
    std::string before, after;
    std::thread([&] {
        before = qconv_last_error();
        qconv_quantizer_kind other;
        (void)qconv_quantizer_from_name("theirs", &other);
        after = qconv_last_error();
    }).join();
    CHECK(before == "");
    CHECK(after.find("theirs") != std::string::npos);
    CHECK(std::string(qconv_last_error()).find("mine") != std::string::npos);
}

} // namespace
} // namespace qconv::test
