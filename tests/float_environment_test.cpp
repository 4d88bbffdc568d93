// Results depend neither on how the caller computes floats nor on when the threads of a call were made.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <vector>

#include "qconv/qconv.h"
#include "support/catch.h"
#include "support/layer_case.h"

namespace qconv::test {
namespace {

/// Flushes denormals on this thread while it lives, where this test knows how.
class Flushing {
public:
#if defined(__x86_64__)
    Flushing() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
    ~Flushing() { __builtin_ia32_ldmxcsr(before_); }
    bool intact() const { return (__builtin_ia32_stmxcsr() & 0xffc0) == ((before_ | 0x8040) & 0xffc0); }

private:
    unsigned before_;
#else
    ~Flushing() {}
    bool intact() const { return true; }
#endif
};

struct Rounding {
    explicit Rounding(int mode) : before(std::fegetround()) { std::fesetround(mode); }
    ~Rounding() { std::fesetround(before); }
    int before;
};

std::vector<float> output(const LayerCase &c) {
    const LayerPtr layer = c.create(nullptr, nullptr);
    std::vector<float> y(static_cast<size_t>(c.y_size()), -7.0f);
    REQUIRE(layer != nullptr);
    REQUIRE(qconv_layer_forward(layer.get(), c.x().data(), c.shape().batch, c.shape().width, y.data(), nullptr, 0) ==
            QCONV_OK);
    return y;
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_CASE("float environment: rounding is the library's, and the caller's comes back", "[environment]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const Shape shape{32, 24, 3, 1, 1, 1, 1, 1, 2, 200, "rounding"};
    for (const Pair &pair : pairs()) {
        const LayerCase c(shape, pair, 0.0f, Data::Random, 11);
        const std::vector<float> expected = output(c);
        for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
            const Rounding rounding(mode);
            const std::vector<float> y = output(c);
            INFO(c.describe() << ", rounding mode " << mode);
            CHECK(std::fegetround() == mode);
            CHECK(same_bits(y, expected));
        }
    }
}

TEST_CASE("float environment: denormals are kept on every thread", "[environment]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const Shape shape{32, 24, 3, 1, 1, 1, 1, 1, 2, 3000, "denormals"};
    const Pair &pair = *std::find_if(pairs().begin(), pairs().end(),
                                     [](const Pair &p) { return p.kind == QCONV_LAYER_CONV1D && !p.bias; });
    LayerCase c(shape, pair, 0.0f, Data::Random, 12);
    std::vector<float> tiny = c.x();
    for (float &value : tiny)
        value *= 1e-41f;
    const auto run = [&](int threads) {
        REQUIRE(qconv_set_num_threads(threads) == QCONV_OK);
        const LayerPtr layer = c.create(nullptr, nullptr);
        std::vector<float> y(static_cast<size_t>(c.y_size()), -7.0f);
        REQUIRE(layer != nullptr);
        REQUIRE(qconv_layer_forward(layer.get(), tiny.data(), shape.batch, shape.width, y.data(), nullptr, 0) ==
                QCONV_OK);
        return y;
    };
    const std::vector<float> expected = run(2); // its threads are there now
    CHECK(std::fpclassify(expected[5]) == FP_SUBNORMAL);
    {
        const Flushing flushing;
        for (const int threads : {1, 2, 3})
            CHECK(same_bits(run(threads), expected));
        CHECK(flushing.intact());
    }
    qconv_set_num_threads(1);
}

} // namespace
} // namespace qconv::test
