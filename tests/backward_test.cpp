// Every generic backward kernel, forced by name on every target this machine runs, on every shape and the quantizer
// pairs it serves, against the oracle, and the saved state bit by bit. Tensors end or start at an inaccessible page,
// outputs start as NaN between patterns, and what a layer does not save is not there in backward.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "runtime/select.h"
#include "support/catch.h"
#include "support/targets.h"
#include "support/training.h"

namespace qconv::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kThresholds[] = {1.0f, kNaN, 0.5f};
constexpr float kPads[] = {-1.0f, 0.0f, 0.5f, 1.0f, -0.3f};
constexpr int kMostFailures = 10;                         // messages per test case
constexpr int64_t kLarge = 5'000'000, kHuge = 50'000'000; // products: fewer pairs, two pairs

int64_t products(const Shape &s) {
    const int64_t width_out = (s.width + s.left + s.right - s.dilation * (s.kernel - 1) - 1) / s.stride + 1;
    return s.batch * s.out * (s.in / s.groups) * s.kernel * width_out;
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

std::string changed(const Gradients &now, const Gradients &before) {
    if (!same_bits(now.input, before.input)) return "grad_input has other bits";
    if (!same_bits(now.weight, before.weight)) return "grad_weight has other bits";
    if (!same_bits(now.bias, before.bias)) return "grad_bias has other bits";
    return "";
}

bool is_backward(const qconv_kernel &kernel) {
    return kernel.op == QCONV_OP_GRAD_INPUT || kernel.op == QCONV_OP_GRAD_WEIGHT;
}

std::string name_of(const qconv_kernel *kernel) {
    return kernel == nullptr ? "the best kernel" : std::string(kernel->name) + " on " + kernel->target;
}

class BackwardTest {
public:
    BackwardTest(std::string name, std::string target) : name_(std::move(name)), target_(std::move(target)) {}

    /// Calls each(case, stream) on the shapes and pairs of this share of the table, thinned where that changes nothing.
    template <typename Each>
    void for_each_case(size_t share, size_t shares, const Each &each) {
        for (size_t s = share; s < kShapeCount; s += shares) {
            const Shape &shape = kShapes[s];
            if (thin() && !shape.thin) continue;
            for (size_t p = 0; p < training_pairs().size(); ++p) {
                const Pair &pair = training_pairs()[p];
                // Shapes that take integers to their limits show floats little.
                if ((thin() || shape.extreme || products(shape) > kLarge) && !pair.thin) continue;
                if (products(shape) > kHuge && pair.name != "sign/sign" && !pair.bias) continue;
                const bool padded = shape.left + shape.right > 0;
                float pad = padded ? kPads[(s + p) % std::size(kPads)] : kPads[0];
                if (pair.kind == QCONV_LAYER_CONV1D) pad = 0;
                const float threshold = kThresholds[(s / 2 + p) % std::size(kThresholds)];
                const Numbers numbers = (s + p) % 2 == 0 ? Numbers::Integer : Numbers::Real;
                TrainingCase c(shape, pair, threshold, pad, numbers, s * 1000 + p);
                each(c);
            }
        }
    }

    /// Forced on each generic backward kernel of the target that serves the case.
    void run_forced(TrainingCase &c) {
        std::vector<const qconv_kernel *> input, weight;
        const qconv_kernel *kernel = nullptr;
        for (size_t i = 0; (kernel = qconv_kernel_at(i)) != nullptr; ++i) {
            if (target_ != kernel->target || kernel->in_channels != 0 || !is_backward(*kernel)) continue;
            kernels_.insert(kernel->name);
            if (!std::isfinite(estimate_cost(*kernel, c.config()))) continue;
            (kernel->op == QCONV_OP_GRAD_INPUT ? input : weight).push_back(kernel);
        }
        if (input.empty() || weight.empty()) return fail(c, nullptr, nullptr, "no kernel of " + target_ + " serves it");
        for (size_t i = 0; i < std::max(input.size(), weight.size()); ++i)
            run(c, input[i % input.size()], weight[i % weight.size()]);
    }

    void run(TrainingCase &c, const qconv_kernel *input, const qconv_kernel *weight) {
        std::string error;
        const LayerPtr layer = c.create(input, weight, &error);
        if (layer == nullptr) return fail(c, input, weight, "create: " + error);
        const qconv_kernel *used_input = qconv_layer_kernel(layer.get(), QCONV_GRAD_INPUT);
        const qconv_kernel *used_weight = qconv_layer_kernel(layer.get(), QCONV_GRAD_WEIGHT);
        if (used_input == nullptr || used_weight == nullptr) return fail(c, input, weight, "a direction has no kernel");
        if ((input != nullptr && used_input != input) || (weight != nullptr && used_weight != weight)) {
            return fail(c, input, weight, "the layer uses " + name_of(used_input) + " and " + name_of(used_weight));
        }
        // The edge, the workspace and the extra checks change from run to run; each kernel meets them many times.
        StepOptions options;
        options.edge = runs_ % 2 == 0 ? GuardedArena::Edge::End : GuardedArena::Edge::Start;
        options.own_workspace = runs_ % 3 == 0;
        error = step(c, layer.get(), options);
        if (error.empty()) error = c.check(guarded_.gradients());
        if (error.empty() && runs_ % 5 == 0) error = on_two_threads(c, layer.get(), options);
        if (error.empty() && runs_ % 7 == 0) error = one_by_one(c, layer.get(), options);
        if (error.empty() && runs_ % 11 == 0) error = forward_alone(c, layer.get());
        ran_.insert(used_input->name);
        ran_.insert(used_weight->name);
        if (qconv_layer_saved(layer.get()) == QCONV_SAVES_STATE) ++states_;
        ++runs_;
        if (!error.empty()) fail(c, used_input, used_weight, error);
    }

    /// Something must have run; with `all`, every backward kernel of the target.
    void finish(bool all = true) {
        std::printf("%s: %lld runs of %zu kernels, %lld states\n", name_.c_str(), static_cast<long long>(runs_),
                    ran_.size(), static_cast<long long>(states_));
        for (const std::string &kernel : kernels_) {
            if (!all) break;
            INFO("kernel " << kernel << " on " << target_ << " served no case of the table");
            CHECK(ran_.count(kernel) == 1);
        }
        CHECK(runs_ > 0);
        CHECK(states_ > 0);
        CHECK(failures_ == 0);
    }

private:
    std::string step(const TrainingCase &c, const qconv_layer *layer, const StepOptions &options) {
        return guarded_.step(layer, c.config(), c.data(), c.shape().batch, c.shape().width, options);
    }

    std::string on_two_threads(const TrainingCase &c, const qconv_layer *layer, const StepOptions &options) {
        const Gradients one = guarded_.gradients();
        qconv_set_num_threads(2);
        std::string error = step(c, layer, options);
        qconv_set_num_threads(1);
        if (error.empty()) error = changed(guarded_.gradients(), one);
        return error.empty() ? error : "on two threads: " + error;
    }

    /// Each gradient asked for alone has the bits it has beside the others.
    std::string one_by_one(const TrainingCase &c, const qconv_layer *layer, StepOptions options) {
        const Gradients together = guarded_.gradients();
        for (int only = 0; only < 3; ++only) {
            options.input = only == 0, options.weight = only == 1, options.bias = only == 2;
            if (std::string error = step(c, layer, options); !error.empty()) return "one gradient: " + error;
            Gradients expected = together;
            if (only != 0) expected.input.clear();
            if (only != 1) expected.weight.clear();
            if (only != 2) expected.bias.clear();
            if (std::string error = changed(guarded_.gradients(), expected); !error.empty()) {
                return error + " when it is computed alone";
            }
        }
        return "";
    }

    /// forward_training gives what forward gives.
    std::string forward_alone(const TrainingCase &c, const qconv_layer *layer) {
        std::vector<float> y(guarded_.y().size());
        if (qconv_layer_forward(layer, c.data().x.data(), c.shape().batch, c.shape().width, y.data(), nullptr, 0) !=
            QCONV_OK) {
            return std::string("forward: ") + qconv_last_error();
        }
        return same_bits(y, guarded_.y()) ? "" : "forward_training gives other outputs than forward";
    }

    void fail(const TrainingCase &c, const qconv_kernel *input, const qconv_kernel *weight, const std::string &error) {
        if (++failures_ <= kMostFailures) {
            FAIL_CHECK(name_of(input) << ", " << name_of(weight) << ": " << c.describe() << ": " << error << "\n  "
                                      << replay(name_));
        }
    }

    std::string name_, target_;
    GuardedTraining guarded_;
    std::set<std::string> kernels_, ran_;
    int64_t runs_ = 0, states_ = 0;
    int failures_ = 0;
};

/// The shapes with index `share` modulo kShares, so that a machine of several cores tests them side by side.
constexpr size_t kShares = 2;

void test_target(const char *target, size_t share) {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    if (const std::string why = why_not(target); !why.empty()) {
        WARN("skipped " << target << ": " << why);
        return;
    }
    qconv_set_num_threads(1);
    BackwardTest test(std::string("backward: ") + target + (share == 0 ? " (even shapes)" : " (odd shapes)"), target);
    test.for_each_case(share, kShares, [&](TrainingCase &c) { test.run_forced(c); });
    test.finish();
}

#if defined(__x86_64__)
TEST_CASE("backward: sse41 (even shapes)", "[backward][sse41]") {
    test_target("sse41", 0);
}
TEST_CASE("backward: sse41 (odd shapes)", "[backward][sse41]") {
    test_target("sse41", 1);
}
TEST_CASE("backward: avx2 (even shapes)", "[backward][avx2]") {
    test_target("avx2", 0);
}
TEST_CASE("backward: avx2 (odd shapes)", "[backward][avx2]") {
    test_target("avx2", 1);
}
TEST_CASE("backward: avx512 (even shapes)", "[backward][avx512]") {
    test_target("avx512", 0);
}
TEST_CASE("backward: avx512 (odd shapes)", "[backward][avx512]") {
    test_target("avx512", 1);
}
TEST_CASE("backward: avx512_zen4 (even shapes)", "[backward][avx512_zen4]") {
    test_target("avx512_zen4", 0);
}
TEST_CASE("backward: avx512_zen4 (odd shapes)", "[backward][avx512_zen4]") {
    test_target("avx512_zen4", 1);
}
#elif defined(__aarch64__)
TEST_CASE("backward: arm64 (even shapes)", "[backward][arm64]") {
    test_target("arm64", 0);
}
TEST_CASE("backward: arm64 (odd shapes)", "[backward][arm64]") {
    test_target("arm64", 1);
}
TEST_CASE("backward: arm64_dotprod (even shapes)", "[backward][arm64_dotprod]") {
    test_target("arm64_dotprod", 0);
}
TEST_CASE("backward: arm64_dotprod (odd shapes)", "[backward][arm64_dotprod]") {
    test_target("arm64_dotprod", 1);
}
#elif defined(__arm__)
TEST_CASE("backward: arm32 (even shapes)", "[backward][arm32]") {
    test_target("arm32", 0);
}
TEST_CASE("backward: arm32 (odd shapes)", "[backward][arm32]") {
    test_target("arm32", 1);
}
#endif

TEST_CASE("backward: best kernel", "[backward][best]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    BackwardTest test("backward: best kernel", "");
    test.for_each_case(0, 1, [&](TrainingCase &c) { test.run(c, nullptr, nullptr); });
    test.finish();
}

TEST_CASE("backward: every threshold and padding value", "[backward][padding]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    BackwardTest test("backward: every threshold and padding value", "");
    const Shape shapes[] = {{20, 9, 4, 1, 3, 2, 1, 1, 2, 23, "padding within the window"},
                            {3, 5, 7, 2, 9, 8, 1, 1, 1, 4, "padding beyond the window"}};
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const float thresholds[] = {0.0f, 1e-40f, 0.3f, 1.0f, 1.25f, 1e30f, infinity, kNaN};
    const float pads[] = {-1.0f, 0.0f, -0.0f, 0.5f, 1.0f, -0.3f, 1.0f / 3.0f, 1000.0f, -7.25f, 1e-30f};
    for (const Shape &shape : shapes) {
        for (size_t p = 0; p < training_pairs().size(); ++p) {
            if (training_pairs()[p].kind == QCONV_LAYER_CONV1D) continue;
            for (size_t i = 0; i < std::size(pads); ++i) {
                TrainingCase c(shape, training_pairs()[p], thresholds[(p + i) % std::size(thresholds)], pads[i],
                               i % 2 == 0 ? Numbers::Real : Numbers::Integer, p);
                test.run(c, nullptr, nullptr);
            }
        }
    }
    test.finish();
}

double dot(const std::vector<float> &a, const std::vector<double> &b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// y is linear in the quantized weights, and in the quantized input where padding adds nothing. With integers all sums
/// are exact, so that <y, gy> = <qw, gw> = <xq, gx> to the last bit, of results of the library alone.
TEST_CASE("backward: adjoint identities", "[backward][adjoint]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(2);
    const char *const unit[] = {"sign/sign", "identity/sign", "NoAct sign",        "NoAct identity",
                                "conv1d",    "sign/identity", "identity/identity", "inputdorefa1/sign"};
    GuardedTraining guarded;
    int64_t checked = 0;
    for (const std::string &target : runnable_targets()) {
        for (size_t s = 0; s < kShapeCount; ++s) {
            const Shape &shape = kShapes[s];
            if (!shape.thin || shape.batch == 0 || products(shape) > kLarge) continue;
            for (const Pair &pair : training_pairs()) {
                if (std::find(std::begin(unit), std::end(unit), pair.name) == std::end(unit)) continue;
                const float pad = pair.kind == QCONV_LAYER_CONV1D || s % 3 == 0 ? 0.0f : s % 3 == 1 ? -1.0f : 0.5f;
                const TrainingCase c(shape, pair, kNaN, pad, Numbers::Integer, s);
                const qconv_layer_config &config = c.config();
                INFO(target << ": " << c.describe());
                const LayerPtr layer = c.create_on(target);
                REQUIRE(layer != nullptr);
                const std::string error =
                    guarded.step(layer.get(), config, c.data(), shape.batch, shape.width, StepOptions{});
                if (!error.empty()) {
                    FAIL_CHECK(error);
                    continue;
                }
                std::vector<double> xq(c.data().x.size()), wq(c.data().weight.size());
                const bool activates = pair.kind == QCONV_LAYER_QCONV1D, plain = pair.kind == QCONV_LAYER_CONV1D;
                std::transform(c.data().x.begin(), c.data().x.end(), xq.begin(), [&](float v) {
                    return activates ? reference::quantize(config.input_quantization, v, 1) : double{v};
                });
                std::transform(c.data().weight.begin(), c.data().weight.end(), wq.begin(), [&](float v) {
                    return plain ? double{v} : reference::quantize(config.weight_quantization, v, 1);
                });
                const std::vector<float> &gy = c.data().grad_output;
                const double forward = dot(guarded.y(), {gy.begin(), gy.end()});
                CHECK(forward == dot(guarded.gradients().weight, wq));
                if (pad == 0 || shape.left + shape.right == 0) CHECK(forward == dot(guarded.gradients().input, xq));
                ++checked;
            }
        }
    }
    qconv_set_num_threads(1);
    CHECK(checked > 0);
}

TEST_CASE("backward: the same bits at any number of threads", "[backward][threads]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const Shape shapes[] = {{64, 40, 3, 1, 1, 1, 1, 1, 3, 400, "several tiles, a small batch"},
                            {9, 12, 9, 2, 4, 4, 1, 3, 5, 777, "groups and stride 2"},
                            {32, 32, 15, 1, 7, 7, 1, 32, 2, 300, "depthwise"},
                            {130, 67, 1, 1, 0, 0, 1, 1, 13, 33, "many of a batch"}};
    const char *const names[] = {"sign/sign", "approxsign/sign", "identity/identity", "conv1d+bias", "NoAct sign"};
    GuardedTraining guarded;
    int64_t compared = 0;
    for (const std::string &target : runnable_targets()) {
        for (size_t s = 0; s < std::size(shapes); ++s) {
            for (const Pair &pair : training_pairs()) {
                if (std::find(std::begin(names), std::end(names), pair.name) == std::end(names)) continue;
                const Shape &shape = shapes[s];
                const float pad = pair.kind == QCONV_LAYER_CONV1D ? 0.0f : 0.5f;
                TrainingCase c(shape, pair, 1.0f, pad, Numbers::Real, s);
                INFO(target << ": " << c.describe());
                const LayerPtr layer = c.create_on(target);
                REQUIRE(layer != nullptr);
                Gradients first;
                for (const int threads : {1, 2, 3, 5, 8, 16, 2}) {
                    qconv_set_num_threads(threads);
                    StepOptions options;
                    options.own_workspace = threads % 2 == 1;
                    const std::string error =
                        guarded.step(layer.get(), c.config(), c.data(), shape.batch, shape.width, options);
                    INFO(threads << " threads");
                    CHECK(error == "");
                    if (!error.empty()) break;
                    if (threads == 1) {
                        first = guarded.gradients();
                        CHECK(c.check(first) == "");
                    } else {
                        CHECK(changed(guarded.gradients(), first) == "");
                        ++compared;
                    }
                }
            }
        }
    }
    qconv_set_num_threads(1);
    CHECK(compared > 0);
}

/// A layer for grad_input alone gives the same bits, and saves no more than that takes.
TEST_CASE("backward: layers created for grad_input alone", "[backward][directions]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    const Shape shape{20, 9, 4, 2, 3, 2, 1, 1, 2, 75, "strided"};
    GuardedTraining guarded;
    for (size_t p = 0; p < training_pairs().size(); ++p) {
        const Pair &pair = training_pairs()[p];
        for (const float threshold : {1.0f, kNaN}) {
            const float pad = pair.kind == QCONV_LAYER_CONV1D ? 0.0f : 0.5f;
            TrainingCase c(shape, pair, threshold, pad, Numbers::Real, p);
            INFO(c.describe());
            const LayerPtr both = c.create(nullptr, nullptr, nullptr);
            c.set_directions(QCONV_FORWARD | QCONV_GRAD_INPUT);
            const LayerPtr alone = c.create(nullptr, nullptr, nullptr);
            REQUIRE(both != nullptr);
            REQUIRE(alone != nullptr);
            CHECK(qconv_layer_kernel(alone.get(), QCONV_GRAD_WEIGHT) == nullptr);
            StepOptions options;
            CHECK(guarded.step(both.get(), c.config(), c.data(), shape.batch, shape.width, options) == "");
            const std::vector<float> expected = guarded.gradients().input;
            options.weight = options.bias = false;
            CHECK(guarded.step(alone.get(), c.config(), c.data(), shape.batch, shape.width, options) == "");
            CHECK(same_bits(guarded.gradients().input, expected));

            const bool activates = pair.kind == QCONV_LAYER_QCONV1D;
            bool unit = true;
            for (const float v : {-2.0f, -0.5f, 0.0f, 0.25f, 2.0f}) {
                if (pair.input_mix < 1) unit = unit && reference::surrogate(pair.input, v) == 1;
                if (pair.input_mix > 0) unit = unit && reference::surrogate(pair.input_next, v) == 1;
            }
            const bool needs_nothing = !activates || (std::isnan(threshold) && unit);
            CHECK((qconv_layer_saved(alone.get()) == QCONV_SAVES_NOTHING) == needs_nothing);
        }
    }
}

} // namespace
} // namespace qconv::test
