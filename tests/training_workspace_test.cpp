// Workspaces and allocation of training steps, and many steps at once on one layer.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "qconv/qconv.h"
#include "runtime/plan_backward.h"
#include "runtime/workspace.h"
#include "support/catch.h"
#include "support/counting_allocator.h"
#include "support/training.h"

namespace qconv::test {
namespace {

constexpr float kThreshold = 1.0f;
const Shape kShapesHere[] = {{70, 40, 5, 1, 2, 2, 1, 1, 3, 211, "several tiles"},
                             {12, 18, 7, 3, 4, 1, 2, 3, 2, 90, "groups, stride 3"},
                             {16, 16, 9, 1, 4, 4, 1, 16, 2, 130, "depthwise"}};

/// One pair for each way of saving, and each path.
std::vector<const Pair *> some_pairs() {
    std::vector<const Pair *> chosen;
    for (const char *name : {"sign/sign", "approxsign/sign", "inputdorefa2/weightdorefa2", "NoAct sign", "conv1d+bias",
                             "sign/swishsign"}) {
        for (const Pair &pair : training_pairs()) {
            if (pair.name == name) chosen.push_back(&pair);
        }
    }
    REQUIRE(chosen.size() == 6);
    return chosen;
}

TrainingCase case_of(const Shape &shape, const Pair &pair) {
    return TrainingCase(shape, pair, kThreshold, pair.kind == QCONV_LAYER_CONV1D ? 0.0f : 0.5f, Numbers::Real, 5);
}

/// The tensors of a step on one layer, and the step.
struct Step {
    const TrainingCase &c;
    const qconv_layer *layer;
    std::vector<float> y, gx, gw, gb;
    std::vector<uint32_t> state;

    Step(const TrainingCase &training_case, const qconv_layer *its_layer) : c(training_case), layer(its_layer) {
        int64_t columns = 0;
        size_t bytes = 0;
        CHECK(qconv_layer_width_out(layer, c.shape().width, &columns) == QCONV_OK);
        CHECK(qconv_layer_state_size(layer, c.shape().batch, c.shape().width, &bytes) == QCONV_OK);
        y.resize(static_cast<size_t>(c.shape().batch * c.shape().out * columns));
        gx.resize(c.data().x.size());
        gw.resize(c.data().weight.size());
        gb.resize(static_cast<size_t>(c.shape().out));
        state.resize(bytes / sizeof(uint32_t));
    }

    qconv_status forward(int64_t batch, void *workspace = nullptr, size_t bytes = 0) {
        return qconv_layer_forward_training(layer, c.data().x.data(), batch, c.shape().width, y.data(), state.data(),
                                            state.size() * sizeof(uint32_t), workspace, bytes);
    }
    qconv_status backward(int64_t batch, void *workspace = nullptr, size_t bytes = 0) {
        const bool biased = c.config().kind == QCONV_LAYER_CONV1D;
        return qconv_layer_backward(layer, c.data().x.data(), state.data(), state.size() * sizeof(uint32_t),
                                    c.data().grad_output.data(), batch, c.shape().width, gx.data(), gw.data(),
                                    biased ? gb.data() : nullptr, workspace, bytes);
    }
    bool same(const Step &other) const {
        const auto equal = [](const auto &a, const auto &b) {
            return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0);
        };
        return equal(y, other.y) && equal(gx, other.gx) && equal(gw, other.gw) && equal(gb, other.gb) &&
               equal(state, other.state);
    }
};

TEST_CASE("training workspace: the size asked for suffices, and a byte less is an error", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const int threads : {1, 3}) {
        REQUIRE(qconv_set_num_threads(threads) == QCONV_OK);
        for (const Shape &shape : kShapesHere)
            for (const Pair *pair : some_pairs()) {
                const TrainingCase c = case_of(shape, *pair);
                INFO(c.describe() << ", " << threads << " threads");
                Counter counter;
                const Hooked hooked(counter);
                const LayerPtr layer = c.create(nullptr, nullptr, nullptr);
                REQUIRE(layer != nullptr);
                const int64_t created = counter.allocations;
                size_t bytes = 0;
                REQUIRE(qconv_layer_training_workspace_size(layer.get(), shape.batch, shape.width, &bytes) == QCONV_OK);
                const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64),
                                                                         std::free);
                const uint64_t fallbacks = workspace_fallbacks();
                Step step(c, layer.get());
                CHECK(step.forward(shape.batch, memory.get(), bytes) == QCONV_OK);
                CHECK(step.backward(shape.batch, memory.get(), bytes) == QCONV_OK);
                CHECK(workspace_fallbacks() == fallbacks);
                CHECK(counter.allocations == created);

                // Some direction takes all of it, and says so.
                const bool less = step.forward(shape.batch, memory.get(), bytes - 1) == QCONV_OK &&
                                  step.backward(shape.batch, memory.get(), bytes - 1) == QCONV_OK;
                CHECK_FALSE(less);
                CHECK(std::string(qconv_last_error()).find(std::to_string(bytes)) != std::string::npos);
                CHECK(step.backward(shape.batch, memory.get(), 0) == QCONV_WORKSPACE_TOO_SMALL);
                CHECK(step.backward(shape.batch, static_cast<char *>(memory.get()) + 4, bytes) ==
                      QCONV_INVALID_ARGUMENT);
                CHECK(counter.allocations == created);
            }
    }
    qconv_set_num_threads(1);
}

TEST_CASE("training workspace: repeated steps and new weights allocate nothing", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const int threads : {1, 2}) {
        REQUIRE(qconv_set_num_threads(threads) == QCONV_OK);
        for (const Pair *pair : some_pairs()) {
            const Shape &shape = kShapesHere[0];
            const TrainingCase c = case_of(shape, *pair);
            INFO(c.describe() << ", " << threads << " threads");
            Counter counter;
            {
                const Hooked hooked(counter);
                const LayerPtr layer = c.create(nullptr, nullptr, nullptr);
                REQUIRE(layer != nullptr);
                Step first(c, layer.get());
                CHECK(first.forward(shape.batch) == QCONV_OK);
                CHECK(first.backward(shape.batch) == QCONV_OK);
                const int64_t warm = counter.allocations;
                const uint64_t fallbacks = workspace_fallbacks();
                const float *bias = c.data().bias.empty() ? nullptr : c.data().bias.data();
                std::vector<float> other = c.data().weight;
                for (float &v : other)
                    v = -2 * v;
                for (int i = 0; i < 5; ++i) {
                    Step step(c, layer.get());
                    CHECK(qconv_layer_set_weights(layer.get(), other.data(), nullptr) == QCONV_OK);
                    CHECK(step.forward(shape.batch) == QCONV_OK);
                    CHECK(step.backward(1) == QCONV_OK);
                    CHECK_FALSE(step.same(first));
                    // The weights of before give the bits of before.
                    CHECK(qconv_layer_set_weights(layer.get(), c.data().weight.data(), bias) == QCONV_OK);
                    CHECK(step.forward(shape.batch) == QCONV_OK);
                    CHECK(step.backward(shape.batch) == QCONV_OK);
                    CHECK(step.same(first));
                }
                CHECK(counter.allocations == warm);
                CHECK(workspace_fallbacks() == fallbacks);
            }
            CHECK(counter.outstanding == 0);
        }
    }
    qconv_set_num_threads(1);
}

TEST_CASE("training workspace: layers share what they keep", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    Counter counter;
    {
        const Hooked hooked(counter);
        {
            const TrainingCase large = case_of(kShapesHere[0], *some_pairs()[0]);
            const TrainingCase small = case_of(kShapesHere[2], *some_pairs()[0]);
            const LayerPtr first = large.create(nullptr, nullptr, nullptr),
                           second = small.create(nullptr, nullptr, nullptr);
            Step on_first(large, first.get()), on_second(small, second.get());
            size_t first_bytes = 0, second_bytes = 0;
            REQUIRE(qconv_layer_training_workspace_size(first.get(), 3, 211, &first_bytes) == QCONV_OK);
            REQUIRE(qconv_layer_training_workspace_size(second.get(), 2, 130, &second_bytes) == QCONV_OK);
            REQUIRE(second_bytes < first_bytes);
            const auto train = [](Step &step) {
                CHECK(step.forward(step.c.shape().batch) == QCONV_OK);
                CHECK(step.backward(step.c.shape().batch) == QCONV_OK);
            };
            train(on_first);
            const int64_t warm = counter.allocations;
            for (int i = 0; i < 3; ++i) {
                train(on_second);
                train(on_first);
            }
            CHECK(counter.allocations == warm);
        }
        CHECK(counter.outstanding == 0); // with the last layer they go, before the allocator does
    }
}

TEST_CASE("training workspace: an allocator that fails", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    for (const Pair *pair : some_pairs()) {
        const TrainingCase c = case_of(kShapesHere[1], *pair);
        INFO(c.describe());
        bool complete = false;
        for (int64_t allowed = 0; allowed < 100 && !complete; ++allowed) {
            Counter counter;
            counter.fail_from = allowed;
            {
                const Hooked hooked(counter);
                const LayerPtr layer = c.create(nullptr, nullptr, nullptr);
                if (layer == nullptr) continue;
                Step step(c, layer.get());
                const auto train = [&] {
                    const qconv_status status = step.forward(c.shape().batch);
                    return status == QCONV_OK ? step.backward(c.shape().batch) : status;
                };
                const qconv_status status = train();
                complete = status == QCONV_OK;
                if (complete) continue;
                CHECK(status == QCONV_OUT_OF_MEMORY);
                counter.fail_from = INT64_MAX; // the layer survives: with memory again, it works
                CHECK(train() == QCONV_OK);
            }
            CHECK(counter.outstanding == 0);
        }
        CHECK(complete);
    }
}

/// So large a batch that grad_weight takes it in pieces: the sum is that of plain loops, to the last bit for integers.
TEST_CASE("training workspace: a large batch", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    constexpr int64_t channels = 48, outputs = 32, width = 4096, batch = 40;
    qconv_layer_config config;
    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
    config.in_channels = channels;
    config.out_channels = outputs;
    config.directions = QCONV_TRAINING;
    const std::vector<float> weight(channels * outputs, 1.0f);
    qconv_layer *created = nullptr;
    REQUIRE(qconv_layer_create(&config, weight.data(), nullptr, &created) == QCONV_OK);
    const LayerPtr layer(created);
    const qconv_kernel &kernel = *qconv_layer_kernel(created, QCONV_GRAD_WEIGHT);
    REQUIRE(kernel.path == QCONV_PATH_F32B1);
    REQUIRE(plan_grad_weight(kernel, config, batch, batch, width, 1).samples < batch);
    std::vector<float> x(batch * channels * width), gy(batch * outputs * width), y(gy.size()), gw(weight.size());
    uint32_t random = 1;
    const auto next = [&random] { return random = random * 1664525U + 1013904223U, random >> 16; };
    for (float &v : x)
        v = static_cast<float>(next() % 7) - 3.0f;
    for (float &v : gy)
        v = static_cast<float>(next() % 5) - 2.0f;
    const auto expected = [&](int64_t o, int64_t c) {
        double sum = 0;
        for (int64_t n = 0; n < batch; ++n) {
            const float *row = &x[static_cast<size_t>((n * channels + c) * width)];
            const float *gradient = &gy[static_cast<size_t>((n * outputs + o) * width)];
            for (int64_t w = 0; w < width; ++w)
                sum += row[w] < 0 ? -double{gradient[w]} : double{gradient[w]};
        }
        return sum;
    };
    size_t bytes = 0;
    REQUIRE(qconv_layer_state_size(layer.get(), batch, width, &bytes) == QCONV_OK);
    std::vector<uint32_t> state(bytes / sizeof(uint32_t));
    for (const int threads : {1, 2}) {
        qconv_set_num_threads(threads);
        REQUIRE(qconv_layer_forward_training(layer.get(), x.data(), batch, width, y.data(), state.data(), bytes,
                                             nullptr, 0) == QCONV_OK);
        REQUIRE(qconv_layer_backward(layer.get(), nullptr, state.data(), bytes, gy.data(), batch, width, nullptr,
                                     gw.data(), nullptr, nullptr, 0) == QCONV_OK);
        for (const int64_t o : {0, 13, 31})
            for (int64_t c = 0; c < channels; ++c)
                CHECK(double{gw[static_cast<size_t>(o * channels + c)]} == expected(o, c));
    }
    qconv_set_num_threads(1);
}

TEST_CASE("training workspace: one layer trains on many threads at once", "[threads]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const int threads : {1, 3}) {
        REQUIRE(qconv_set_num_threads(threads) == QCONV_OK);
        for (const Pair *pair : some_pairs()) {
            const Shape &shape = kShapesHere[1];
            const TrainingCase c = case_of(shape, *pair);
            INFO(c.describe() << ", " << threads << " threads a call");
            const LayerPtr layer = c.create(nullptr, nullptr, nullptr);
            REQUIRE(layer != nullptr);
            Step known(c, layer.get());
            REQUIRE(known.forward(shape.batch) == QCONV_OK);
            REQUIRE(known.backward(shape.batch) == QCONV_OK);
            std::vector<Step> steps(6, known);
            std::atomic<int> failed{0};
            std::vector<std::thread> callers;
            for (Step &step : steps) {
                callers.emplace_back([&] {
                    for (int round = 0; round < 10; ++round) {
                        if (step.forward(shape.batch) != QCONV_OK || step.backward(shape.batch) != QCONV_OK) ++failed;
                    }
                });
            }
            for (std::thread &caller : callers)
                caller.join();
            CHECK(failed == 0);
            for (const Step &step : steps)
                CHECK(step.same(known));
        }
    }
    qconv_set_num_threads(1);
}

} // namespace
} // namespace qconv::test
