// Which kernels can compute a layer exactly.
#include "runtime/arithmetic.h"

#include <cstdint>

#include "qconv/layout.h"
#include "support/catch.h"
#include "support/kernel_rows.h"
#include "support/layer_case.h"

namespace qconv::test {
namespace {

TEST_CASE("arithmetic: a kernel is refused where int32 could overflow, and not before", "[arithmetic]") {
    qconv_layer_config config = default_config(QCONV_LAYER_QCONV1D);
    config.input_quantization = quantizer(QCONV_INPUTDOREFA, 8);
    config.weight_quantization = quantizer(QCONV_WEIGHTDOREFA, 8);
    const qconv_kernel k = int8(16, 2, 0);
    const int64_t largest = INT32_MAX / (255 * 255);
    config.in_channels = largest;
    CHECK(mismatch(k, config) == nullptr);
    config.in_channels = largest + 1;
    CHECK(mismatch(k, config) != nullptr);
    CHECK(mismatch(kernel(QCONV_PATH_F32F32, 1), config) == nullptr);
}

TEST_CASE("arithmetic: a kernel is refused where its 16-bit lanes could overflow, and not before", "[arithmetic]") {
    qconv_layer_config config = default_config(QCONV_LAYER_QCONV1D);
    qconv_kernel k = b1b1(16, 16, 1, 1);
    k.vector_words = 8;
    constexpr int64_t vectors = 65535 / 16; // each adds up to 16 to a lane
    config.in_channels = vectors * 128;
    CHECK(mismatch(k, config) == nullptr);
    config.in_channels += 1;
    CHECK(mismatch(k, config) != nullptr);
    k.word_bits = 32;
    k.word_channels = 32;
    k.vector_words = 4;
    CHECK(mismatch(k, config) == nullptr);
}

TEST_CASE("arithmetic: a kernel is refused where its 16-bit sums of words could overflow, and not before",
          "[arithmetic]") {
    qconv_layer_config config = default_config(QCONV_LAYER_QCONV1D);
    qconv_kernel k = int8(8, 2, 0);
    k.word_bits = 16;
    REQUIRE(sums_short(k));
    const auto serves = [&](int input_bits, qconv_quantizer weight) {
        config.input_quantization = quantizer(QCONV_INPUTDOREFA, input_bits);
        config.weight_quantization = weight;
        return mismatch(k, config) == nullptr;
    };
    // 128 products of at most level * element < 256 fit.
    CHECK(serves(8, quantizer(QCONV_SIGN)));            // 255 * 1
    CHECK(serves(4, quantizer(QCONV_WEIGHTDOREFA, 4))); // 15 * 15
    CHECK(serves(2, quantizer(QCONV_WEIGHTDOREFA, 6))); // 3 * 63
    CHECK_FALSE(serves(2, quantizer(QCONV_WEIGHTDOREFA, 7)));
    CHECK_FALSE(serves(5, quantizer(QCONV_WEIGHTDOREFA, 4)));
    CHECK_FALSE(serves(8, quantizer(QCONV_WEIGHTDOREFA, 2)));
}

TEST_CASE("arithmetic: kernels that cannot represent a layer are refused", "[arithmetic]") {
    qconv_layer_config config = default_config(QCONV_LAYER_QCONV1D);
    config.in_channels = 6;
    CHECK(mismatch(b1b1(8, 8, 1, 1), config) == nullptr);
    CHECK(mismatch(b1b1(8, 2, 1, 1), config) != nullptr); // joins taps, for two channels at most
    CHECK(mismatch(b1b1(8, 8, 2, 1), config) != nullptr);
    config.weight_quantization = quantizer(QCONV_WEIGHTDOREFA, 8);
    CHECK(mismatch(int8(8, 4, 0), config) != nullptr);
    CHECK(mismatch(int8(8, 4, 1), config) == nullptr);
    CHECK(mismatch(int8(16, 2, 0), config) == nullptr);
    CHECK(mismatch(f32b1(1, 8), config) != nullptr);
    config.weight_quantization = quantizer(QCONV_INPUTDOREFA, 1);
    CHECK(mismatch(b1b1(8, 8, 1, 1), config) != nullptr);
    qconv_kernel unit = kernel(QCONV_PATH_F32F32, 1);
    unit.unit_stride = 1;
    CHECK(mismatch(unit, config) == nullptr);
    config.stride = 2;
    CHECK(mismatch(unit, config) != nullptr);
}

} // namespace
} // namespace qconv::test
