// Every GPU kernel, forced by name, run through OpenCL on device memory against the oracle: forward, saved state and
// gradients. The same schedules and formulations are what CUDA gets.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <string>

#include "gpu/opencl.h"
#include "runtime/select.h"
#include "support/catch.h"
#include "support/layer_case.h"
#include "support/training.h"

namespace qconv::test {
namespace {

constexpr const char *kTarget = "opencl";
constexpr float kPads[] = {-1.0f, 0.0f, 0.5f, 1.0f, -0.3f};
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kThresholds[] = {1.0f, kNaN, 0.5f};
constexpr int kMostFailures = 10;
constexpr size_t kArenaBytes = size_t{16} << 20;
// Each run takes milliseconds however small it is, and new kernels are compiled at run time: one CPU stands for many
// GPU threads.
constexpr int64_t kLarge = 600'000;
// More blocks of weights than a piece of grad_weight is cut for: each piece is many blocks of positions and both
// samples.
constexpr Shape kManyGroups = {
    512, 1024, 3, 1, 1, 1, 1, 512, 2, 70, "as many groups as make one piece of all positions"};

int64_t products(const Shape &s) {
    const int64_t width_out = (s.width + s.left + s.right - s.dilation * (s.kernel - 1) - 1) / s.stride + 1;
    return s.batch * s.out * (s.in / s.groups) * s.kernel * width_out;
}

/// The device of all tests, or null where there is none: said once.
OpenCl *device() {
    static std::string why;
    static const std::unique_ptr<OpenCl> cl = [] {
        std::unique_ptr<OpenCl> opened = OpenCl::open(&why);
        if (opened == nullptr) WARN("skipped: " << why);
        return opened;
    }();
    return cl.get();
}

GuardedArena::Edge edge_of(int64_t run) {
    return run % 2 == 0 ? GuardedArena::Edge::End : GuardedArena::Edge::Start;
}

bool runs_on_device(const qconv_layer_config &config) {
    const bool next = config.input_mix > 0;
    return config.kind != QCONV_LAYER_QCONV1D || (config.input_quantization.kind != QCONV_WEIGHTDOREFA &&
                                                  (!next || config.input_next.kind != QCONV_WEIGHTDOREFA));
}

LayerPtr create_on(const OpenCl &cl, const qconv_layer_config &config, const float *weight, const float *bias,
                   std::string *error) {
    qconv_layer *layer = nullptr;
    if (qconv_layer_create_on(cl.device(), &config, weight, bias, &layer) == QCONV_OK) return LayerPtr(layer);
    *error = std::string("create: ") + qconv_last_error();
    return nullptr;
}

class Runs {
public:
    explicit Runs(std::string name) : name_(std::move(name)) { REQUIRE(qconv_register_gpu_kernels() == QCONV_OK); }

    /// Names of the target's kernels of these ops, all of which must have run in the end.
    void expect(qconv_op op) {
        for (size_t i = 0; const qconv_kernel *kernel = qconv_kernel_at(i); ++i) {
            if (kernel->op == op && std::strcmp(kernel->target, kTarget) == 0) expected_.insert(kernel);
        }
    }
    const std::set<const qconv_kernel *> &expected() const { return expected_; }

    int64_t next() const { return runs_; }
    void done(const qconv_kernel *kernel, const std::string &what, const std::string &error) {
        ++runs_;
        ran_.insert(kernel);
        if (error.empty() || ++failures_ > kMostFailures) return;
        FAIL_CHECK((kernel == nullptr ? "no kernel" : kernel->name)
                   << ": " << what << ": " << error << "\n  " << replay(name_));
    }
    void finish() {
        std::printf("%s: %lld runs of %zu kernels on %s\n", name_.c_str(), static_cast<long long>(runs_), ran_.size(),
                    device()->name().c_str());
        for (const qconv_kernel *kernel : expected_) {
            INFO("kernel " << kernel->name << " served no case");
            CHECK(ran_.count(kernel) == 1);
        }
        CHECK(failures_ == 0);
    }

private:
    std::string name_;
    std::set<const qconv_kernel *> expected_, ran_;
    int64_t runs_ = 0;
    int failures_ = 0;
};

class Forward {
public:
    explicit Forward(const OpenCl &cl) : cl_(cl), x_(cl, kArenaBytes), y_(cl, kArenaBytes) {}

    std::string run(LayerCase &c, const qconv_kernel *kernel, GuardedArena::Edge edge) {
        qconv_layer_config config = c.config();
        std::string name, error;
        force_kernel(config, *kernel, name);
        const LayerPtr layer = create_on(cl_, config, c.weight().data(), c.bias(), &error);
        if (layer == nullptr) return error;
        if (qconv_layer_kernel(layer.get(), QCONV_FORWARD) != kernel) return "the layer uses another kernel";
        const std::vector<float> unwritten(static_cast<size_t>(c.y_size()), kNaN);
        void *x = x_.place(c.x(), edge), *y = y_.place(unwritten, edge);
        if (qconv_layer_forward_on(layer.get(), x, c.shape().batch, c.shape().width, y, nullptr) != QCONV_OK) {
            return qconv_last_error();
        }
        const std::vector<float> result = y_.floats();
        if (const auto at = y_.damage(); at != 0) return "wrote at byte " + std::to_string(at) + " of y";
        return c.check(kernel->path, result.data());
    }

private:
    const OpenCl &cl_;
    DeviceTensor x_, y_;
};

TEST_CASE("gpu: forward", "[gpu]") {
    if (device() == nullptr) return;
    Runs runs("gpu: forward");
    runs.expect(QCONV_OP_FORWARD);
    Forward forward(*device());
    for (size_t s = 0; s < kShapeCount; ++s) {
        const Shape &shape = kShapes[s];
        if (products(shape) > kLarge && !shape.extreme) continue;
        for (size_t p = 0; p < pairs().size(); ++p) {
            const Pair &pair = pairs()[p];
            if (!pair.thin) continue;
            const bool padded = shape.left + shape.right > 0;
            float pad = padded ? kPads[(s + p) % std::size(kPads)] : kPads[0];
            if (pair.kind == QCONV_LAYER_CONV1D) pad = 0;
            for (const Data data : {Data::Random, Data::Extreme}) {
                if (data == Data::Extreme && !shape.extreme) continue;
                std::optional<LayerCase> c;
                for (const qconv_kernel *kernel : runs.expected()) {
                    if (!c) c.emplace(shape, pair, pad, data, s * 1000 + p, 400'000);
                    if (!runs_on_device(c->config()) || !std::isfinite(estimate_cost(*kernel, c->config()))) continue;
                    runs.done(kernel, c->describe(), forward.run(*c, kernel, edge_of(runs.next())));
                }
            }
        }
    }
    runs.finish();
}

class Training {
public:
    explicit Training(const OpenCl &cl)
        : cl_(cl),
          x_(cl, kArenaBytes),
          y_(cl, kArenaBytes),
          state_(cl, kArenaBytes),
          gy_(cl, kArenaBytes),
          gx_(cl, kArenaBytes),
          gw_(cl, kArenaBytes),
          gb_(cl, kArenaBytes) {}

    /// One step with these two kernels.
    std::string run(TrainingCase &c, const qconv_kernel *input, const qconv_kernel *weight, GuardedArena::Edge edge) {
        qconv_layer_config config = c.config();
        const std::string target = std::string("@") + kTarget, input_name = input->name + target,
                          weight_name = weight->name + target;
        config.kernel = target.c_str();
        config.grad_input_kernel = input_name.c_str(), config.grad_weight_kernel = weight_name.c_str();
        std::string error;
        const TrainingData &data = c.data();
        const LayerPtr layer =
            create_on(cl_, config, data.weight.data(), data.bias.empty() ? nullptr : data.bias.data(), &error);
        if (layer == nullptr) return error;
        const int64_t batch = c.shape().batch, width = c.shape().width;
        size_t state_bytes = 0;
        if (qconv_layer_state_size(layer.get(), batch, width, &state_bytes) != QCONV_OK) return qconv_last_error();
        const qconv_saved saved = qconv_layer_saved(layer.get());
        const std::vector<float> no_y(data.grad_output.size(), kNaN), no_gx(data.x.size(), kNaN),
            no_gw(data.weight.size(), kNaN);
        const std::vector<std::byte> no_state(state_bytes, std::byte{0x5a});
        void *x = x_.place(data.x, edge), *y = y_.place(no_y, edge), *state = state_.place(no_state, edge);
        if (qconv_layer_forward_training_on(layer.get(), x, batch, width, y, state, state_bytes, nullptr) != QCONV_OK) {
            return std::string("forward_training: ") + qconv_last_error();
        }
        if (saved == QCONV_SAVES_STATE) {
            const std::vector<uint32_t> words = reference::saved_state(c.config(), data.x.data(), batch, width);
            const std::span<const std::byte> written = state_.read();
            if (written.size() != words.size() * 4 || std::memcmp(written.data(), words.data(), written.size()) != 0) {
                return "the state is wrong";
            }
        }
        void *gy = gy_.place(data.grad_output, edge), *gx = gx_.place(no_gx, edge), *gw = gw_.place(no_gw, edge);
        const bool biased = config.kind == QCONV_LAYER_CONV1D;
        const std::vector<float> no_gb(biased ? static_cast<size_t>(c.shape().out) : 0, kNaN);
        void *gb = gb_.place(no_gb, edge); // NULL for the others
        if (qconv_layer_backward_on(layer.get(), saved == QCONV_SAVES_INPUT ? x : nullptr, state, state_bytes, gy,
                                    batch, width, gx, gw, gb, nullptr) != QCONV_OK) {
            return std::string("backward: ") + qconv_last_error();
        }
        const Gradients gradients{gx_.floats(), gw_.floats(), gb_.floats()};
        for (const auto &[tensor, text] : {std::pair{&y_, "y"},
                                           {&state_, "state"},
                                           {&gx_, "grad_input"},
                                           {&gw_, "grad_weight"},
                                           {&gb_, "grad_bias"}}) {
            if (tensor->damage() != 0) return std::string("wrote beside ") + text;
        }
        return c.check(gradients);
    }

private:
    const OpenCl &cl_;
    DeviceTensor x_, y_, state_, gy_, gx_, gw_, gb_;
};

TEST_CASE("gpu: training", "[gpu]") {
    if (device() == nullptr) return;
    Runs runs("gpu: training");
    runs.expect(QCONV_OP_GRAD_INPUT);
    const std::set<const qconv_kernel *> inputs = runs.expected();
    runs.expect(QCONV_OP_GRAD_WEIGHT);
    Training training(*device());
    for (size_t s = 0; s <= kShapeCount; ++s) {
        const Shape &shape = s < kShapeCount ? kShapes[s] : kManyGroups;
        if (products(shape) > kLarge || shape.batch == 0) continue;
        for (size_t p = 0; p < training_pairs().size(); ++p) {
            const Pair &pair = training_pairs()[p];
            if (!pair.thin && (s + p) % 5 != 0) continue;
            const float pad = pair.kind == QCONV_LAYER_CONV1D ? 0.0f : kPads[(s + p) % std::size(kPads)];
            TrainingCase c(shape, pair, kThresholds[(s + p) % std::size(kThresholds)], pad,
                           p % 2 == 0 ? Numbers::Real : Numbers::Integer, s * 1000 + p, 200'000);
            if (!runs_on_device(c.config())) continue;
            // As many steps as there are kernels of the one op or the other.
            std::vector<const qconv_kernel *> input_kernels, weight_kernels;
            for (const qconv_kernel *kernel : runs.expected()) {
                if (!std::isfinite(estimate_cost(*kernel, c.config()))) continue;
                (inputs.count(kernel) == 1 ? input_kernels : weight_kernels).push_back(kernel);
            }
            const size_t steps = std::max(input_kernels.size(), weight_kernels.size());
            for (size_t i = 0; i < steps; ++i) {
                const qconv_kernel *input = input_kernels[i % input_kernels.size()];
                const qconv_kernel *weight = weight_kernels[i % weight_kernels.size()];
                const std::string error = training.run(c, input, weight, edge_of(runs.next()));
                runs.done(input, std::string(weight->name) + ", " + c.describe(), error);
                runs.done(weight, "", "");
            }
        }
    }
    runs.finish();
}

TEST_CASE("gpu: an infinite input reaches the taps that see it, and no others", "[gpu]") {
    if (device() == nullptr) return;
    Runs runs("gpu: infinite input");
    runs.expect(QCONV_OP_GRAD_WEIGHT);
    constexpr int64_t taps = 3, width = 20, columns = width - taps + 1, infinite = width - 2; // no tap 0 sees it
    const OpenCl &cl = *device();
    DeviceTensor x(cl, 1 << 16), gy(cl, 1 << 16), gw(cl, 1 << 16);
    std::vector<float> input(width, 1.0f);
    input[infinite] = std::numeric_limits<float>::infinity();
    const std::vector<float> ones(columns, 1.0f), weight(taps, 1.0f), unwritten(taps, kNaN);
    for (const qconv_kernel *kernel : runs.expected()) {
        qconv_layer_config config;
        qconv_layer_config_init(&config, QCONV_LAYER_CONV1D);
        const std::string name = std::string(kernel->name) + "@" + kTarget;
        config.in_channels = config.out_channels = 1, config.kernel_size = taps;
        config.directions = QCONV_TRAINING, config.grad_weight_kernel = name.c_str();
        std::string error;
        const LayerPtr layer = create_on(cl, config, weight.data(), nullptr, &error);
        INFO(name << error);
        REQUIRE(layer != nullptr);
        void *in = x.place(input, GuardedArena::Edge::End), *up = gy.place(ones, GuardedArena::Edge::End),
             *out = gw.place(unwritten, GuardedArena::Edge::End);
        REQUIRE(qconv_layer_backward_on(layer.get(), in, nullptr, 0, up, 1, width, nullptr, out, nullptr, nullptr) ==
                QCONV_OK);
        const std::vector<float> sums = gw.floats();
        CHECK(sums[0] == float(columns));
        CHECK(std::isinf(sums[1]));
        CHECK(std::isinf(sums[2]));
        runs.done(kernel, "", "");
    }
    runs.finish();
}

} // namespace
} // namespace qconv::test
