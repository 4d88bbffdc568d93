// Workspaces and allocation: the size asked for suffices, and steady calls allocate nothing.
#include <cstdlib>
#include <cstring>
#include <string>

#include "qconv/qconv.h"
#include "support/catch.h"
#include "support/counting_allocator.h"
#include "support/layer_case.h"

namespace qconv::test {
namespace {

const Shape kShape{96, 40, 5, 1, 2, 2, 1, 1, 3, 211, "several tiles"};

std::vector<size_t> one_pair_a_path() {
    std::vector<size_t> chosen;
    for (const char *name : {"sign/sign", "inputdorefa4/weightdorefa4", "NoAct sign", "NoAct weightdorefa4",
                             "conv1d+bias", "inputdorefa2/sign"}) {
        for (size_t p = 0; p < pairs().size(); ++p) {
            if (pairs()[p].name == name) chosen.push_back(p);
        }
    }
    REQUIRE(chosen.size() == 6);
    return chosen;
}

LayerCase case_of(size_t p) {
    return LayerCase(kShape, pairs()[p], pairs()[p].kind == QCONV_LAYER_CONV1D ? 0.0f : -1.0f, Data::Random, p);
}

TEST_CASE("workspace: the size asked for suffices, and a byte less is an error", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const int threads : {1, 2}) {
        REQUIRE(qconv_set_num_threads(threads) == QCONV_OK);
        for (const size_t p : one_pair_a_path()) {
            Counter counter;
            const Hooked hooked(counter);
            LayerCase c = case_of(p);
            const LayerPtr layer = c.create(nullptr, nullptr);
            REQUIRE(layer != nullptr);
            INFO(c.describe() << ", " << threads << " threads");
            const int64_t created = counter.allocations;
            size_t bytes = 0;
            REQUIRE(qconv_layer_workspace_size(layer.get(), kShape.batch, kShape.width, &bytes) == QCONV_OK);
            GuardedRun guarded;
            CHECK(guarded.forward(layer.get(), c, GuardedArena::Edge::End, false) == "");
            CHECK(c.check(qconv_layer_kernel(layer.get(), QCONV_FORWARD)->path, guarded.y()) == "");
            CHECK(counter.allocations == created);

            if (bytes == 0) continue;
            std::vector<float> y(static_cast<size_t>(c.y_size()), 7.0f);
            const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(64, (bytes + 127) / 64 * 64),
                                                                     std::free);
            const auto run = [&](size_t offset, size_t given) {
                return qconv_layer_forward(layer.get(), c.x().data(), kShape.batch, kShape.width, y.data(),
                                           static_cast<char *>(memory.get()) + offset, given);
            };
            CHECK(run(0, bytes - 1) == QCONV_WORKSPACE_TOO_SMALL);
            const std::string text = qconv_last_error();
            INFO("message: " << text);
            CHECK(text.find(std::to_string(bytes)) != std::string::npos);
            CHECK(text.find(std::to_string(bytes - 1)) != std::string::npos);
            CHECK(run(0, 0) == QCONV_WORKSPACE_TOO_SMALL);
            CHECK(run(4, bytes) == QCONV_INVALID_ARGUMENT);
            CHECK(y == std::vector<float>(y.size(), 7.0f));
            CHECK(run(0, bytes) == QCONV_OK);
            CHECK(std::memcmp(y.data(), guarded.y(), y.size() * sizeof(float)) == 0);
            CHECK(counter.allocations == created);
        }
    }
    qconv_set_num_threads(1);
}

TEST_CASE("workspace: repeated calls allocate nothing", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const int threads : {1, 2}) {
        REQUIRE(qconv_set_num_threads(threads) == QCONV_OK);
        for (const size_t p : one_pair_a_path()) {
            Counter counter;
            {
                const Hooked hooked(counter);
                LayerCase c = case_of(p);
                const LayerPtr layer = c.create(nullptr, nullptr);
                REQUIRE(layer != nullptr);
                INFO(c.describe() << ", " << threads << " threads");
                std::vector<float> y(static_cast<size_t>(c.y_size()));
                const auto run = [&](int64_t batch, int64_t width) {
                    return qconv_layer_forward(layer.get(), c.x().data(), batch, width, y.data(), nullptr, 0);
                };
                CHECK(run(kShape.batch, kShape.width) == QCONV_OK);
                const int64_t warm = counter.allocations;
                for (int i = 0; i < 20; ++i)
                    CHECK(run(kShape.batch, kShape.width) == QCONV_OK);
                // Smaller calls fit into what is there.
                CHECK(run(1, kShape.width) == QCONV_OK);
                CHECK(run(kShape.batch, 20) == QCONV_OK);
                CHECK(run(0, kShape.width) == QCONV_OK);
                CHECK(counter.allocations == warm);
            }
            CHECK(counter.outstanding == 0);
        }
    }
    qconv_set_num_threads(1);
}

TEST_CASE("workspace: an allocator that fails", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    for (const size_t p : one_pair_a_path()) {
        LayerCase c = case_of(p);
        INFO(c.describe());
        // Fails at the first allocation, then the second, and so on until create and forward get all they want.
        bool complete = false;
        for (int64_t allowed = 0; allowed < 100 && !complete; ++allowed) {
            Counter counter;
            counter.fail_from = allowed;
            {
                const Hooked hooked(counter);
                qconv_layer *layer = nullptr;
                qconv_status status = qconv_layer_create(&c.config(), c.weight().data(), c.bias(), &layer);
                const LayerPtr owner(layer);
                std::vector<float> y(static_cast<size_t>(c.y_size()));
                if (status == QCONV_OK) {
                    status = qconv_layer_forward(layer, c.x().data(), kShape.batch, kShape.width, y.data(), nullptr, 0);
                } else {
                    CHECK(layer == nullptr);
                }
                complete = status == QCONV_OK;
                if (complete) {
                    CHECK(c.check(qconv_layer_kernel(layer, QCONV_FORWARD)->path, y.data()) == "");
                } else {
                    CHECK(status == QCONV_OUT_OF_MEMORY);
                    CHECK(std::string(qconv_last_error()) != "");
                    // The layer survives: with memory again, it works.
                    counter.fail_from = INT64_MAX;
                    if (layer != nullptr) {
                        CHECK(qconv_layer_forward(layer, c.x().data(), kShape.batch, kShape.width, y.data(), nullptr,
                                                  0) == QCONV_OK);
                        CHECK(c.check(qconv_layer_kernel(layer, QCONV_FORWARD)->path, y.data()) == "");
                    }
                }
            }
            CHECK(counter.outstanding == 0);
        }
        CHECK(complete);
    }
}

TEST_CASE("workspace: allocator hooks come in pairs and not under a living layer", "[workspace]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    CHECK(qconv_set_allocator(Counter::allocate, nullptr, nullptr) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_set_allocator(nullptr, Counter::release, nullptr) == QCONV_INVALID_ARGUMENT);
    LayerCase c = case_of(0);
    const LayerPtr layer = c.create(nullptr, nullptr);
    REQUIRE(layer != nullptr);
    CHECK(qconv_layer_packed_bytes(layer.get()) > 0);
    Counter counter;
    CHECK(qconv_set_allocator(Counter::allocate, Counter::release, &counter) != QCONV_OK);
}

} // namespace
} // namespace qconv::test
