// Every generic kernel, forced by name on every target this machine runs, on every shape and quantizer pair it serves,
// against the oracle. Inputs end or start at an inaccessible page, outputs start as NaN between patterns.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <set>

#include "runtime/select.h"
#include "support/catch.h"
#include "support/layer_case.h"
#include "support/targets.h"

namespace qconv::test {
namespace {

constexpr float kPads[] = {-1.0f, 0.0f, 0.5f, 1.0f, -0.3f};
constexpr int kMostFailures = 10; // messages per test case
constexpr int64_t kLarge = 20'000'000;

int64_t products(const Shape &s) {
    const int64_t width_out = (s.width + s.left + s.right - s.dilation * (s.kernel - 1) - 1) / s.stride + 1;
    return s.batch * s.out * (s.in / s.groups) * s.kernel * width_out;
}

class ForwardTest {
public:
    ForwardTest(std::string name, std::string target) : name_(std::move(name)), target_(std::move(target)) {}

    /// Calls each(case) on the table: all shapes with all pairs, thinned where that changes nothing.
    template <typename Each>
    void for_each_case(const Each &each) {
        for (size_t s = 0; s < kShapeCount; ++s) {
            const Shape &shape = kShapes[s];
            if (thin() && !shape.thin) continue;
            for (size_t p = 0; p < pairs().size(); ++p) {
                const Pair &pair = pairs()[p];
                if ((thin() || products(shape) > kLarge) && !pair.thin) continue;
                const bool padded = shape.left + shape.right > 0;
                float pad = padded ? kPads[(s + p) % std::size(kPads)] : kPads[0];
                if (pair.kind == QCONV_LAYER_CONV1D) pad = 0;
                const uint64_t stream = s * 1000 + p;
                each(shape, pair, pad, Data::Random, stream);
                if (shape.extreme) each(shape, pair, pad, Data::Extreme, stream);
            }
        }
    }

    /// Forced on each generic kernel of the target that serves the case.
    void run_forced(const Shape &shape, const Pair &pair, float pad, Data data, uint64_t stream) {
        std::optional<LayerCase> c;
        qconv_layer_config config;
        qconv_layer_config_init(&config, pair.kind);
        apply(pair, config);
        test::apply(shape, config);
        config.pad_value = pad;
        const qconv_kernel *kernel = nullptr;
        for (size_t i = 0; (kernel = qconv_kernel_at(i)) != nullptr; ++i) {
            if (kernel->op != QCONV_OP_FORWARD || target_ != kernel->target || kernel->in_channels != 0) continue;
            kernels_.insert(kernel->name);
            if (!std::isfinite(estimate_cost(*kernel, config))) continue;
            if (!c) c.emplace(shape, pair, pad, data, stream);
            run(*c, kernel);
        }
    }

    void run(LayerCase &c, const qconv_kernel *kernel) {
        std::string error;
        const LayerPtr layer = c.create(kernel, &error);
        if (layer == nullptr) return fail(c, kernel, "create: " + error);
        const qconv_kernel *used = qconv_layer_kernel(layer.get(), QCONV_FORWARD);
        if (kernel != nullptr &&
            (std::strcmp(used->name, kernel->name) != 0 || std::strcmp(used->target, kernel->target) != 0)) {
            return fail(c, kernel, std::string("the layer uses ") + used->name + " on " + used->target);
        }
        // The edge and the workspace change from run to run; each kernel meets all four combinations many times.
        const auto edge = runs_ % 2 == 0 ? GuardedArena::Edge::End : GuardedArena::Edge::Start;
        error = guarded_.forward(layer.get(), c, edge, runs_ % 3 == 0);
        if (error.empty()) error = c.check(used->path, guarded_.y());
        if (error.empty() && runs_ % 4 == 0) error = run_on_two_threads(c, layer.get(), edge);
        ran_.insert(used->name);
        ++runs_;
        if (!error.empty()) fail(c, used, error);
    }

    /// Something must have run; with `all`, every kernel of the target.
    void finish(bool all = true) {
        std::printf("%s: %lld runs of %zu kernels\n", name_.c_str(), static_cast<long long>(runs_), ran_.size());
        for (const std::string &kernel : kernels_) {
            if (!all) break;
            INFO("kernel " << kernel << " on " << target_ << " served no case of the table");
            CHECK(ran_.count(kernel) == 1);
        }
        CHECK(runs_ > 0);
        CHECK(failures_ == 0);
    }

private:
    std::string run_on_two_threads(const LayerCase &c, const qconv_layer *layer, GuardedArena::Edge edge) {
        const std::vector<float> one(guarded_.y(), guarded_.y() + c.y_size());
        qconv_set_num_threads(2);
        std::string error = guarded_.forward(layer, c, edge, runs_ % 3 == 0);
        qconv_set_num_threads(1);
        if (error.empty() && !one.empty() && std::memcmp(one.data(), guarded_.y(), one.size() * sizeof(float)) != 0) {
            error = "two threads give other bits than one";
        }
        return error.empty() ? error : "on two threads: " + error;
    }

    void fail(const LayerCase &c, const qconv_kernel *kernel, const std::string &error) {
        const std::string what =
            kernel == nullptr ? "best kernel" : std::string(kernel->name) + " on " + kernel->target;
        if (++failures_ <= kMostFailures) {
            FAIL_CHECK(what << ": " << c.describe() << ": " << error << "\n  " << replay(name_));
        }
    }

    std::string name_, target_;
    GuardedRun guarded_;
    std::set<std::string> kernels_, ran_;
    int64_t runs_ = 0;
    int failures_ = 0;
};

void test_target(const char *target) {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    if (const std::string why = why_not(target); !why.empty()) {
        WARN("skipped " << target << ": " << why);
        return;
    }
    qconv_set_num_threads(1);
    ForwardTest test(std::string("forward: ") + target, target);
    test.for_each_case([&](const Shape &shape, const Pair &pair, float pad, Data data, uint64_t stream) {
        test.run_forced(shape, pair, pad, data, stream);
    });
    test.finish();
}

#if defined(__x86_64__)
TEST_CASE("forward: sse41", "[forward][sse41]") {
    test_target("sse41");
}
TEST_CASE("forward: avx2", "[forward][avx2]") {
    test_target("avx2");
}
TEST_CASE("forward: avx512", "[forward][avx512]") {
    test_target("avx512");
}
TEST_CASE("forward: avx512_zen4", "[forward][avx512_zen4]") {
    test_target("avx512_zen4");
}
#elif defined(__aarch64__)
TEST_CASE("forward: arm64", "[forward][arm64]") {
    test_target("arm64");
}
TEST_CASE("forward: arm64_dotprod", "[forward][arm64_dotprod]") {
    test_target("arm64_dotprod");
}
#elif defined(__arm__)
TEST_CASE("forward: arm32", "[forward][arm32]") {
    test_target("arm32");
}
#endif

TEST_CASE("forward: best kernel", "[forward][best]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    ForwardTest test("forward: best kernel", "");
    test.for_each_case([&](const Shape &shape, const Pair &pair, float pad, Data data, uint64_t stream) {
        LayerCase c(shape, pair, pad, data, stream);
        test.run(c, nullptr);
    });
    test.finish();
}

TEST_CASE("forward: NaN through binary quantizers", "[forward][nan]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    const Shape shape{37, 9, 3, 1, 1, 1, 1, 1, 2, 83, "many values"};
    const char *const binary[] = {"sign/sign", "steheaviside/sign", "approxsign/steheaviside", "sign/weightdorefa2"};
    for (const std::string &target : runnable_targets()) {
        ForwardTest test("forward: NaN through binary quantizers", target);
        for (size_t p = 0; p < pairs().size(); ++p) {
            if (std::find(std::begin(binary), std::end(binary), pairs()[p].name) == std::end(binary)) continue;
            test.run_forced(shape, pairs()[p], 0.5f, Data::WithNaN, p);
        }
        test.finish(false);
    }
}

TEST_CASE("forward: every padding value on every path", "[forward][padding]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_set_num_threads(1);
    ForwardTest test("forward: every padding value on every path", "");
    const Shape shapes[] = {{20, 9, 4, 1, 3, 2, 1, 1, 2, 23, "padding within the window"},
                            {3, 5, 7, 2, 9, 8, 1, 1, 1, 4, "padding beyond the window"}};
    for (const Shape &shape : shapes) {
        for (size_t p = 0; p < pairs().size(); ++p) {
            if (pairs()[p].kind == QCONV_LAYER_CONV1D) continue;
            for (const float pad : {-1.0f, 0.0f, -0.0f, 0.5f, 1.0f, -0.3f, 1.0f / 3.0f, 1000.0f, -7.25f, 1e-30f}) {
                LayerCase c(shape, pairs()[p], pad, Data::Random, p);
                test.run(c, nullptr);
            }
        }
    }
    test.finish();
}

} // namespace
} // namespace qconv::test
