// Weights that change under the cache: what is seen when, what is kept, and what goes.
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "qconv/qconv.h"
#include "support/catch.h"

namespace qconv::test {
namespace {

constexpr int64_t kWidth = 20;

qconv_layer_config config_of(qconv_layer_kind kind, int64_t channels, uint32_t directions = QCONV_FORWARD) {
    qconv_layer_config config;
    qconv_layer_config_init(&config, kind);
    config.in_channels = config.out_channels = channels;
    config.kernel_size = 3;
    config.directions = directions;
    return config;
}

/// Weights that a layer is kept of.
struct Owned {
    explicit Owned(const qconv_layer_config &layer)
        : config(layer), weight(static_cast<size_t>(layer.out_channels * layer.in_channels * 3), 1.0F) {
        REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    }
    ~Owned() { qconv_weights_forget(weight.data()); }
    Owned(const Owned &) = delete;
    Owned &operator=(const Owned &) = delete;

    qconv_acquired acquire(uint64_t version = 0, int64_t batch = 1, bool backward = false) const {
        qconv_acquired acquired{};
        REQUIRE(qconv_weights_acquire(&config, nullptr, weight.data(), weight.data(), bias, version, batch, kWidth,
                                      backward ? 1 : 0, &acquired) == QCONV_OK);
        REQUIRE(acquired.layer != nullptr);
        return acquired;
    }
    std::vector<float> run(uint64_t version = 0) const {
        const std::vector<float> x(static_cast<size_t>(config.in_channels * kWidth), 1.0F);
        std::vector<float> y(static_cast<size_t>(config.out_channels * (kWidth - 2)));
        const qconv_acquired acquired = acquire(version);
        REQUIRE(qconv_layer_forward(acquired.layer, x.data(), 1, kWidth, y.data(), nullptr, 0) == QCONV_OK);
        qconv_weights_release(acquired.layer);
        return y;
    }

    qconv_layer_config config;
    std::vector<float> weight;
    const float *bias = nullptr;
};

struct Check {
    explicit Check(qconv_weight_check check) { REQUIRE(qconv_set_weight_check(check) == QCONV_OK); }
    ~Check() { qconv_set_weight_check(QCONV_CHECK_SAMPLED); }
    Check(const Check &) = delete;
    Check &operator=(const Check &) = delete;
};

TEST_CASE("weights: rows, columns and taps are seen at once, single elements within eight calls", "[weights]") {
    Owned owned(config_of(QCONV_LAYER_NOACT, 96)); // 108 KiB
    const size_t row = 96 * 3;
    CHECK(owned.run()[0] == row);
    for (float &value : owned.weight)
        value = -1;
    CHECK(owned.run()[0] == -static_cast<float>(row));
    for (size_t o = 0; o < 96; ++o) {
        for (size_t i = 0; i < row; ++i)
            owned.weight[o * row + i] = 1;
        CHECK(owned.run()[o * (kWidth - 2)] == row);
    }
    for (size_t tap = 0; tap < 3; ++tap) {
        for (size_t i = tap; i < owned.weight.size(); i += 3)
            owned.weight[i] = -1;
        CHECK(owned.run()[0] == static_cast<float>(96 * (3 - 2 * static_cast<int>(tap + 1))));
    }
    for (size_t channel = 0; channel < 96; ++channel) {
        for (size_t o = 0; o < 96; ++o)
            owned.weight[o * row + channel * 3] = 1;
        CHECK(owned.run()[0] == -static_cast<float>(row) + 2 * static_cast<float>(channel + 1));
    }
    const float before = owned.run()[7 * (kWidth - 2)];
    owned.weight[7 * row + 200] *= -1;
    int calls = 1;
    while (owned.run()[7 * (kWidth - 2)] == before && calls <= 8)
        ++calls;
    CHECK(calls <= 8);
}

TEST_CASE("weights: exact, training and another version see every element at once", "[weights]") {
    const size_t element = 50 * 96 * 3 + 123;
    const auto flips_are_seen = [&](Owned &owned, uint64_t step, bool seen) {
        uint64_t version = 0;
        const float first = owned.run(version)[50 * (kWidth - 2)];
        owned.weight[element] *= -1;
        version += step;
        CHECK((owned.run(version)[50 * (kWidth - 2)] != first) == seen);
    };
    {
        Owned owned(config_of(QCONV_LAYER_NOACT, 96));
        const Check exact(QCONV_CHECK_EXACT);
        flips_are_seen(owned, 0, true);
    }
    {
        Owned owned(config_of(QCONV_LAYER_NOACT, 96, QCONV_TRAINING));
        const Check nothing(QCONV_CHECK_NOTHING);
        flips_are_seen(owned, 0, true);
    }
    {
        Owned owned(config_of(QCONV_LAYER_NOACT, 96));
        const Check nothing(QCONV_CHECK_NOTHING);
        flips_are_seen(owned, 1, true);
        flips_are_seen(owned, 0, false);
    }
    CHECK(qconv_set_weight_check(QCONV_WEIGHT_CHECKS) == QCONV_INVALID_ARGUMENT);
    CHECK(std::string(qconv_last_error()).find("check is 3") != std::string::npos);
}

TEST_CASE("weights: a bias is followed, and backward does not ask for it", "[weights]") {
    Owned owned(config_of(QCONV_LAYER_CONV1D, 8, QCONV_TRAINING));
    std::vector<float> bias(8, 1.0F);
    owned.bias = bias.data();
    CHECK(owned.run()[0] == 25);
    bias[0] = 2;
    CHECK(owned.run()[0] == 26);
    const qconv_acquired forward = owned.acquire();
    owned.bias = nullptr;
    const qconv_acquired backward = owned.acquire(0, 1, true);
    CHECK(backward.layer == forward.layer);
    qconv_weights_release(forward.layer);
    qconv_weights_release(backward.layer);
    CHECK(owned.run()[0] == 24);
}

TEST_CASE("weights: layers in use stay as they are, and go when they are released", "[weights]") {
    const size_t before = qconv_weights_count();
    {
        Owned owned(config_of(QCONV_LAYER_NOACT, 8));
        const qconv_acquired old = owned.acquire();
        CHECK(old.first != 0);
        CHECK(qconv_weights_count() == before + 1);
        for (float &value : owned.weight)
            value = -1;
        const qconv_acquired fresh = owned.acquire();
        CHECK(fresh.layer != old.layer);
        CHECK(owned.run()[0] == -24);
        const std::vector<float> x(8 * kWidth, 1.0F);
        std::vector<float> y(8 * (kWidth - 2));
        qconv_weights_forget(owned.weight.data());
        CHECK(qconv_weights_count() == before);
        REQUIRE(qconv_layer_forward(old.layer, x.data(), 1, kWidth, y.data(), nullptr, 0) == QCONV_OK);
        CHECK(y[0] == 24);
        REQUIRE(qconv_layer_forward(fresh.layer, x.data(), 1, kWidth, y.data(), nullptr, 0) == QCONV_OK);
        CHECK(y[0] == -24);
        qconv_weights_release(old.layer);
        qconv_weights_release(fresh.layer);
        const qconv_acquired again = owned.acquire();
        CHECK(again.first != 0);
        qconv_weights_release(again.layer);
    }
    CHECK(qconv_weights_count() == before);
}

TEST_CASE("weights: unread, the version decides", "[weights]") {
    Owned owned(config_of(QCONV_LAYER_NOACT, 8));
    qconv_acquired acquired{};
    const auto ask = [&](const float *weight, uint64_t version) {
        REQUIRE(qconv_weights_acquire(&owned.config, nullptr, owned.weight.data(), weight, nullptr, version, 1, kWidth,
                                      0, &acquired) == QCONV_OK);
        if (acquired.layer == nullptr) return false;
        qconv_weights_release(acquired.layer);
        return true;
    };
    CHECK_FALSE(ask(nullptr, 1));
    CHECK(ask(owned.weight.data(), 1));
    CHECK(ask(nullptr, 1));
    CHECK_FALSE(ask(nullptr, 2));
    CHECK(ask(owned.weight.data(), 2));
    CHECK(ask(nullptr, 2));
}

TEST_CASE("weights: what cannot be is refused", "[weights]") {
    Owned owned(config_of(QCONV_LAYER_NOACT, 8));
    qconv_acquired acquired{};
    const auto status = [&](const qconv_layer_config &config) {
        return qconv_weights_acquire(&config, nullptr, owned.weight.data(), owned.weight.data(), nullptr, 0, 1, kWidth,
                                     0, &acquired);
    };
    qconv_layer_config bad = owned.config;
    bad.kernel = "f32b1_g5_t1";
    CHECK(status(bad) == QCONV_INVALID_ARGUMENT);
    bad = owned.config;
    bad.stride = 0;
    CHECK(status(bad) == QCONV_INVALID_ARGUMENT);
    CHECK(std::string(qconv_last_error()).find("stride is 0") != std::string::npos);
    CHECK(qconv_weights_count() == 0);
}

TEST_CASE("weights: threads see old or new weights, whole", "[weights]") {
    Owned owned(config_of(QCONV_LAYER_NOACT, 8));
    std::atomic<int> wrong = 0;
    for (int round = 0; round < 20; ++round) {
        for (float &value : owned.weight)
            value = -value;
        const float expected = round % 2 == 0 ? -24 : 24;
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t) {
            threads.emplace_back([&] {
                const std::vector<float> x(8 * kWidth, 1.0F);
                std::vector<float> y(8 * (kWidth - 2));
                for (int call = 0; call < 20; ++call) {
                    qconv_acquired acquired{};
                    const qconv_status acquired_status =
                        qconv_weights_acquire(&owned.config, nullptr, owned.weight.data(), owned.weight.data(), nullptr,
                                              0, 1, kWidth, 0, &acquired);
                    if (acquired_status != QCONV_OK ||
                        qconv_layer_forward(acquired.layer, x.data(), 1, kWidth, y.data(), nullptr, 0) != QCONV_OK ||
                        y[0] != expected)
                        ++wrong;
                    qconv_weights_release(acquired.layer);
                }
            });
        }
        for (std::thread &thread : threads)
            thread.join();
    }
    CHECK(wrong == 0);
}

} // namespace
} // namespace qconv::test
