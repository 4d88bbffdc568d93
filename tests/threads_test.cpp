// One layer called from many threads, many layers at once, and the thread setting.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <sched.h>

#include "memory.h"
#include "qconv/qconv.h"
#include "support/catch.h"
#include "support/layer_case.h"
#include "threads.h"
#include "workspace.h"

namespace qconv::test {
namespace {

constexpr int kCallers = 8;
constexpr int kManyCallers = 64;
constexpr int kRounds = 25;

/// A layer, and what it must give, computed once on one thread and checked against the oracle.
struct Known {
    LayerCase c;
    LayerPtr layer;
    std::vector<float> y;

    Known(const Shape &shape, const Pair &pair, uint64_t stream)
        : c(shape, pair, pair.kind == QCONV_LAYER_CONV1D ? 0.0f : 0.5f, Data::Random, stream),
          layer(c.create(nullptr, nullptr)),
          y(static_cast<size_t>(c.y_size())) {
        REQUIRE(layer != nullptr);
        REQUIRE(run(y.data()) == QCONV_OK);
        INFO(c.describe());
        REQUIRE(c.check(qconv_layer_kernel(layer.get(), QCONV_FORWARD)->path, y.data()) == "");
    }

    qconv_status run(float *into) const {
        return qconv_layer_forward(layer.get(), c.x().data(), c.shape().batch, c.shape().width, into, nullptr, 0);
    }
    bool same(const std::vector<float> &other) const {
        return std::memcmp(y.data(), other.data(), y.size() * sizeof(float)) == 0;
    }
};

const Shape kShapesHere[] = {
    {64, 48, 3, 1, 1, 1, 1, 1, 2, 300, "some work"},
    {5, 7, 4, 2, 3, 1, 1, 1, 1, 33, "hardly any"},
    {33, 33, 9, 1, 4, 4, 1, 33, 3, 101, "depthwise"},
};

std::vector<Known> known_layers() {
    std::vector<Known> all;
    for (const Shape &shape : kShapesHere) {
        for (size_t p = 0; p < pairs().size(); p += 5)
            all.emplace_back(shape, pairs()[p], p);
    }
    return all;
}

/// Runs body(caller) on so many threads at once.
template <typename Body>
void on_callers(const Body &body, int count = kCallers) {
    std::vector<std::thread> callers;
    std::atomic<int> ready{0};
    for (int i = 0; i < count; ++i) {
        callers.emplace_back([&, i] {
            ++ready;
            while (ready < count)
                std::this_thread::yield();
            body(i);
        });
    }
    for (std::thread &caller : callers)
        caller.join();
}

// Read before any test changes the setting.
const int kDefaultThreads = qconv_get_num_threads();

TEST_CASE("threads: the setting", "[threads]") {
    const int before = qconv_get_num_threads();
    cpu_set_t mask;
    REQUIRE(sched_getaffinity(0, sizeof mask, &mask) == 0);
    CHECK(kDefaultThreads == CPU_COUNT(&mask));
    for (const int bad : {0, -1, 1025, 1 << 30}) {
        CHECK(qconv_set_num_threads(bad) == QCONV_INVALID_ARGUMENT);
        const std::string text = qconv_last_error();
        CHECK(text.find(std::to_string(bad)) != std::string::npos);
        CHECK(text.find("1024") != std::string::npos);
        CHECK(qconv_get_num_threads() == before);
    }
    for (const int good : {1, 2, 3, 1024, before}) {
        CHECK(qconv_set_num_threads(good) == QCONV_OK);
        CHECK(qconv_get_num_threads() == good);
    }
}

TEST_CASE("threads: a loop runs every index once, on no more workers than it has", "[threads]") {
    const int before = qconv_get_num_threads();
    for (const int workers : {1, 2, 3, 8}) {
        REQUIRE(qconv_set_num_threads(workers) == QCONV_OK);
        const std::size_t slab = slab_bytes(0);
        const Memory memory(slab * static_cast<std::size_t>(workers));
        CallContext context(memory.data(), slab, workers);
        for (const int count : {1, 2, 3, 7, 8, 31, 32, 33, 1000}) {
            INFO(workers << " workers, " << count << " indexes");
            std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
            std::atomic<int> inside{0};
            std::atomic<int> most{0};
            parallel_for(context, count, [&](int i) {
                const int now = ++inside;
                for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
                }
                ++runs[static_cast<size_t>(i)];
                --inside;
            });
            CHECK(std::all_of(runs.begin(), runs.end(), [](const std::atomic<int> &n) { return n == 1; }));
            CHECK(most <= workers);
        }
    }
    REQUIRE(qconv_set_num_threads(before) == QCONV_OK);
}

TEST_CASE("threads: one layer called from many", "[threads]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const int threads : {1, 2, 4}) {
        REQUIRE(qconv_set_num_threads(threads) == QCONV_OK);
        for (const Known &known : known_layers()) {
            std::atomic<int> wrong{0}, failed{0};
            on_callers([&](int) {
                std::vector<float> y(known.y.size());
                for (int round = 0; round < kRounds; ++round) {
                    std::fill(y.begin(), y.end(), -7.0f);
                    if (known.run(y.data()) != QCONV_OK) ++failed;
                    if (!known.same(y)) ++wrong;
                }
            });
            INFO(known.c.describe() << ", " << threads << " threads a call");
            CHECK(failed == 0);
            CHECK(wrong == 0);
        }
    }
    qconv_set_num_threads(1);
}

TEST_CASE("threads: different layers at once, made and destroyed meanwhile", "[threads]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    REQUIRE(qconv_set_num_threads(2) == QCONV_OK);
    const std::vector<Known> layers = known_layers();
    std::atomic<int> wrong{0}, failed{0};
    on_callers([&](int caller) {
        for (int round = 0; round < kRounds; ++round) {
            const Known &known = layers[static_cast<size_t>(caller + round) % layers.size()];
            std::vector<float> y(known.y.size());
            if (round % 3 == 0) {
                const LayerPtr own = known.c.create(nullptr, nullptr);
                if (own == nullptr || qconv_layer_forward(own.get(), known.c.x().data(), known.c.shape().batch,
                                                          known.c.shape().width, y.data(), nullptr, 0) != QCONV_OK) {
                    ++failed;
                }
            } else if (known.run(y.data()) != QCONV_OK) {
                ++failed;
            }
            if (!known.same(y)) ++wrong;
        }
    });
    CHECK(failed == 0);
    CHECK(wrong == 0);
    qconv_set_num_threads(1);
}

TEST_CASE("threads: 64 callers share a layer, and 64 have their own", "[threads]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    REQUIRE(qconv_set_num_threads(2) == QCONV_OK);
    const std::vector<Known> layers = known_layers();
    std::atomic<int> wrong{0}, failed{0};
    const auto check = [&](const Known &known, const qconv_layer *layer) {
        std::vector<float> y(known.y.size(), -7.0f);
        const Shape &shape = known.c.shape();
        if (qconv_layer_forward(layer, known.c.x().data(), shape.batch, shape.width, y.data(), nullptr, 0) !=
            QCONV_OK) {
            ++failed;
        } else if (!known.same(y)) {
            ++wrong;
        }
    };
    on_callers(
        [&](int) {
            for (int round = 0; round < 5; ++round)
                check(layers.front(), layers.front().layer.get());
        },
        kManyCallers);
    on_callers(
        [&](int caller) {
            const Known &known = layers[static_cast<size_t>(caller) % layers.size()];
            const LayerPtr own = known.c.create(nullptr, nullptr);
            for (int round = 0; round < 5 && own != nullptr; ++round)
                check(known, own.get());
            if (own == nullptr) ++failed;
        },
        kManyCallers);
    CHECK(failed == 0);
    CHECK(wrong == 0);
    qconv_set_num_threads(1);
}

TEST_CASE("threads: the setting may change between and during calls", "[threads]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const Known known(kShapesHere[0], pairs()[0], 3);
    std::atomic<int> wrong{0};
    on_callers([&](int caller) {
        std::vector<float> y(known.y.size());
        for (int round = 0; round < kRounds; ++round) {
            qconv_set_num_threads(1 + (caller + round) % 5);
            if (known.run(y.data()) != QCONV_OK || !known.same(y)) ++wrong;
        }
    });
    CHECK(wrong == 0);
    qconv_set_num_threads(1);
}

} // namespace
} // namespace qconv::test
