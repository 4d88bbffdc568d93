#include "support/training.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "runtime/workspace.h"

namespace qconv::test {
namespace {

/// What outputs hold before a call: a NaN of a pattern that no arithmetic gives.
const float kUnwritten = std::bit_cast<float>(0x7fa5a5a5u);

int64_t weight_count(const qconv_layer_config &config) {
    return config.out_channels * (config.in_channels / config.groups) * config.kernel_size;
}

bool quantizes_nothing(const qconv_quantizer &q, float mix) {
    return q.kind == QCONV_IDENTITY && mix == 0;
}

/// Replaces values whose surrogate nothing defines (NaN and infinities of swishsign).
void define(std::vector<float> &values, const qconv_quantizer &first, const qconv_quantizer &next, float mix) {
    for (float &v : values) {
        const bool defined = (mix < 1 ? std::isfinite(reference::surrogate(first, v)) : true) &&
                             (mix > 0 ? std::isfinite(reference::surrogate(next, v)) : true);
        if (!defined) v = 0.25f;
    }
}

void round_to_integers(std::vector<float> &values) {
    for (float &v : values)
        v = std::nearbyint(2 * v);
}

/// Strews values that a threshold tells apart among x.
void add_threshold_values(std::vector<float> &x, float threshold, Random &random) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const float at[] = {threshold, std::nextafter(threshold, 0.0f), std::nextafter(threshold, infinity)};
    for (float &v : x) {
        const int64_t draw = random.below(40);
        if (draw < 6) v = draw % 2 == 0 ? at[draw / 2] : -at[draw / 2];
    }
}

bool serves_training(const Pair &pair) {
    // Backward sees levels as values, however many: 2 and 8 bits stand for all.
    const auto stands = [](const qconv_quantizer &q) {
        return (q.kind != QCONV_INPUTDOREFA && q.kind != QCONV_WEIGHTDOREFA) || q.bits == 1 || q.bits == 2 ||
               q.bits == 8;
    };
    return stands(pair.input) && stands(pair.weight);
}

std::vector<Pair> make_training_pairs() {
    std::vector<Pair> all;
    std::copy_if(pairs().begin(), pairs().end(), std::back_inserter(all), serves_training);
    const qconv_quantizer sign = quantizer(QCONV_SIGN), approx = quantizer(QCONV_APPROXSIGN),
                          swish = quantizer(QCONV_SWISHSIGN), step = quantizer(QCONV_STEHEAVISIDE),
                          identity = quantizer(QCONV_IDENTITY);
    const auto add = [&](const char *name, const qconv_quantizer &input, const qconv_quantizer &input_next,
                         float input_mix, const qconv_quantizer &weight, const qconv_quantizer &weight_next,
                         float weight_mix, bool thin) {
        Pair p{name, QCONV_LAYER_QCONV1D};
        p.input = input, p.input_next = input_next, p.input_mix = input_mix;
        p.weight = weight, p.weight_next = weight_next, p.weight_mix = weight_mix;
        p.thin = thin;
        all.push_back(p);
    };
    add("approxsign/sign", approx, approx, 0, sign, sign, 0, true);
    add("swishsign/sign", swish, swish, 0, sign, sign, 0, false);
    add("sign/swishsign", sign, sign, 0, swish, swish, 0, true);
    add("steheaviside/steheaviside", step, step, 0, step, step, 0, false);
    add("approxsign to swishsign, 1/3 / swishsign to identity, 1/4", approx, swish, 1.0f / 3.0f, swish, identity, 0.25f,
        true);
    add("identity to steheaviside, arrived / approxsign to sign, arrived", identity, step, 1, approx, sign, 1, false);
    qconv_quantizer narrow = swish, wide = swish;
    narrow.beta = 0.5f, wide.beta = 20;
    add("swishsign beta 0.5 / swishsign beta 20", narrow, narrow, 0, wide, wide, 0, false);
    return all;
}

/// The first difference of a gradient, by its flat index.
std::string difference(const char *what, const std::vector<float> &got, const std::vector<int64_t> &elements,
                       const reference::Expected &expected) {
    for (size_t i = 0; i < expected.y.size(); ++i) {
        const auto at = elements.empty() ? i : static_cast<size_t>(elements[i]);
        const double error = std::abs(double{got[at]} - expected.y[i]);
        if (error <= expected.tolerance[i]) continue;
        char text[256];
        std::snprintf(text, sizeof text, "%s[%zu] is %.9g, expected %.9g, off by %.3g where %.3g is allowed", what, at,
                      double{got[at]}, expected.y[i], error, expected.tolerance[i]);
        return text;
    }
    return "";
}

std::string never_written(const char *what, const std::vector<float> &got) {
    for (size_t i = 0; i < got.size(); ++i) {
        if (std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(kUnwritten)) {
            return std::string(what) + '[' + std::to_string(i) + "] was never written";
        }
    }
    return "";
}

} // namespace

const std::vector<Pair> &training_pairs() {
    static const std::vector<Pair> all = make_training_pairs();
    return all;
}

TrainingCase::TrainingCase(const Shape &shape, const Pair &pair, float threshold, float pad_value, Numbers numbers,
                           uint64_t stream, int64_t products)
    : shape_(shape), pair_name_(pair.name), numbers_(numbers), products_(products), stream_(stream) {
    qconv_layer_config_init(&config_, pair.kind);
    apply(pair, config_);
    test::apply(shape, config_);
    config_.width = shape.width; // so that the layer names the kernels that its calls take
    config_.pad_value = pad_value;
    config_.directions = QCONV_TRAINING;
    const bool activates = pair.kind == QCONV_LAYER_QCONV1D;
    if (activates) config_.gradient_cancellation_threshold = threshold;

    Random random(stream, 2);
    data_.x = make_input(config_, shape.batch * shape.in * shape.width, Data::WithNaN, random);
    data_.weight = make_weight(config_, Data::WithNaN, random);
    if (pair.bias) data_.bias = make_bias(config_, random);
    if (activates) {
        const bool squashed = pair.input.kind == QCONV_WEIGHTDOREFA || pair.input_next.kind == QCONV_WEIGHTDOREFA;
        if (threshold < 100 && !squashed) add_threshold_values(data_.x, threshold, random);
        define(data_.x, pair.input, pair.input_next, pair.input_mix);
    }
    if (pair.kind != QCONV_LAYER_CONV1D) define(data_.weight, pair.weight, pair.weight_next, pair.weight_mix);

    const int64_t columns = reference::width_out(config_, shape.width);
    data_.grad_output.resize(static_cast<size_t>(shape.batch * shape.out * columns));
    for (float &v : data_.grad_output)
        v = numbers == Numbers::Integer ? static_cast<float>(random.below(13) - 6) : random.bell();
    if (numbers == Numbers::Integer) {
        if (!activates || quantizes_nothing(pair.input, pair.input_mix)) round_to_integers(data_.x);
        if (pair.kind == QCONV_LAYER_CONV1D || quantizes_nothing(pair.weight, pair.weight_mix))
            round_to_integers(data_.weight);
    }
}

LayerPtr TrainingCase::create(const qconv_kernel *grad_input, const qconv_kernel *grad_weight,
                              std::string *error) const {
    const auto name = [](const qconv_kernel *kernel) {
        return kernel == nullptr ? "" : std::string(kernel->name) + "@" + kernel->target;
    };
    // The forward and save_state kernels come from the target of grad_weight's.
    return create(grad_weight == nullptr ? "" : std::string("@") + grad_weight->target, name(grad_input),
                  name(grad_weight), error);
}

LayerPtr TrainingCase::create_on(const std::string &target) const {
    return create("@" + target, "@" + target, "@" + target, nullptr);
}

LayerPtr TrainingCase::create(const std::string &forward, const std::string &grad_input, const std::string &grad_weight,
                              std::string *error) const {
    qconv_layer_config config = config_;
    config.kernel = forward.empty() ? nullptr : forward.c_str();
    config.grad_input_kernel = grad_input.empty() ? nullptr : grad_input.c_str();
    config.grad_weight_kernel = grad_weight.empty() ? nullptr : grad_weight.c_str();
    qconv_layer *layer = nullptr;
    const float *bias = data_.bias.empty() ? nullptr : data_.bias.data();
    if (qconv_layer_create(&config, data_.weight.data(), bias, &layer) != QCONV_OK) {
        if (error != nullptr) *error = qconv_last_error();
        return nullptr;
    }
    return LayerPtr(layer);
}

std::string TrainingCase::check(const Gradients &gradients) {
    const Shape &s = shape_;
    const float *x = data_.x.data(), *gy = data_.grad_output.data(), *w = data_.weight.data();
    if (!input_) {
        const auto most = [&](int64_t per_element) {
            return std::max<int64_t>(100, products_ / std::max<int64_t>(1, per_element));
        };
        input_elements_ = reference::sample_elements(s.batch * s.in, s.width,
                                                     most(reference::grad_input_products(config_)), seed() + stream_);
        weight_elements_ = reference::sample_elements(s.out * (s.in / s.groups), s.kernel,
                                                      most(reference::grad_weight_products(config_, s.batch, s.width)),
                                                      seed() + stream_);
        input_ = reference::expect_grad_input(config_, x, gy, s.batch, s.width, w, input_elements_);
        weight_ = reference::expect_grad_weight(config_, x, gy, s.batch, s.width, w, weight_elements_);
        bias_ = reference::expect_grad_bias(config_, gy, s.batch, s.width);
    }
    std::string error = difference("grad_input", gradients.input, input_elements_, *input_);
    if (error.empty()) error = difference("grad_weight", gradients.weight, weight_elements_, *weight_);
    if (error.empty() && config_.kind == QCONV_LAYER_CONV1D)
        error = difference("grad_bias", gradients.bias, {}, *bias_);
    return error;
}

std::string TrainingCase::describe() const {
    return test::describe(shape_) + ", " + pair_name_ + ", threshold " +
           std::to_string(config_.gradient_cancellation_threshold) + ", pad_value " +
           std::to_string(config_.pad_value) + (numbers_ == Numbers::Integer ? ", integers" : "");
}

namespace {
constexpr size_t kArenaBytes = size_t{4} << 20; // more than the largest tensor of the shape table
} // namespace

GuardedTraining::GuardedTraining()
    : x_arena_(kArenaBytes),
      state_arena_(kArenaBytes),
      y_arena_(kArenaBytes),
      workspace_arena_(16 * kArenaBytes),
      grad_arenas_{GuardedArena(kArenaBytes), GuardedArena(kArenaBytes), GuardedArena(kArenaBytes),
                   GuardedArena(kArenaBytes)} {}

std::string GuardedTraining::step(const qconv_layer *layer, const qconv_layer_config &config, const TrainingData &data,
                                  int64_t batch, int64_t width, const StepOptions &options) {
    std::string error = forward(layer, config, data, batch, width, options);
    if (!error.empty()) return "forward_training: " + error;
    error = backward(layer, config, data, batch, width, options);
    return error.empty() ? error : "backward: " + error;
}

std::string GuardedTraining::forward(const qconv_layer *layer, const qconv_layer_config &config,
                                     const TrainingData &data, int64_t batch, int64_t width,
                                     const StepOptions &options) {
    const auto status_text = [](qconv_status status) {
        return std::string(qconv_status_name(status)) + ": " + qconv_last_error();
    };
    size_t workspace_bytes = 0;
    qconv_status status = qconv_layer_training_workspace_size(layer, batch, width, &workspace_bytes);
    if (status != QCONV_OK) return "training_workspace_size: " + status_text(status);
    status = qconv_layer_state_size(layer, batch, width, &state_bytes_);
    if (status != QCONV_OK) return "state_size: " + status_text(status);
    const bool saves_state = qconv_layer_saved(layer) == QCONV_SAVES_STATE;
    const std::vector<uint32_t> state =
        saves_state ? reference::saved_state(config, data.x.data(), batch, width) : std::vector<uint32_t>();
    if (state_bytes_ != state.size() * sizeof(uint32_t)) {
        return "state_size is " + std::to_string(state_bytes_) + ", expected " + std::to_string(state.size() * 4);
    }
    void *workspace = options.own_workspace ? nullptr : workspace_arena_.place(workspace_bytes, 64, options.edge);
    const float *x = x_arena_.place(data.x, options.edge);
    state_ = static_cast<uint32_t *>(state_arena_.place(state_bytes_, sizeof(uint32_t), options.edge));
    std::memset(state_, 0x5a, state_bytes_);
    const auto columns = std::max<int64_t>(0, reference::width_out(config, width));
    const std::vector<float> unwritten(static_cast<size_t>(batch * config.out_channels * columns), kUnwritten);
    float *y = y_arena_.place(unwritten, options.edge);
    const uint64_t fallbacks = workspace_fallbacks();
    status = qconv_layer_forward_training(layer, x, batch, width, y, saves_state ? state_ : nullptr, state_bytes_,
                                          workspace, options.own_workspace ? 0 : workspace_bytes);
    if (status != QCONV_OK) return status_text(status);
    if (workspace_fallbacks() != fallbacks) return "a workspace of the size asked for had no room for scratch";
    if (const auto at = x_arena_.damage(); at != 0) return "wrote at byte " + std::to_string(at) + " of x";
    if (const auto at = y_arena_.damage(); at != 0) return "wrote at byte " + std::to_string(at) + " of y";
    if (const auto at = state_arena_.damage(); at != 0) return "wrote at byte " + std::to_string(at) + " of the state";
    if (const auto at = options.own_workspace ? 0 : workspace_arena_.damage(); at != 0) {
        return "wrote at byte " + std::to_string(at) + " of a workspace of " + std::to_string(workspace_bytes);
    }
    for (size_t i = 0; i < state.size(); ++i) {
        if (state_[i] == state[i]) continue;
        char text[160];
        std::snprintf(text, sizeof text, "word %zu of the state (of %zu) is 0x%08x, expected 0x%08x", i, state.size(),
                      state_[i], state[i]);
        return text;
    }
    y_.assign(y, y + unwritten.size());
    return never_written("y", y_);
}

std::string GuardedTraining::backward(const qconv_layer *layer, const qconv_layer_config &config,
                                      const TrainingData &data, int64_t batch, int64_t width,
                                      const StepOptions &options) {
    size_t workspace_bytes = 0;
    if (qconv_layer_training_workspace_size(layer, batch, width, &workspace_bytes) != QCONV_OK) {
        return qconv_last_error();
    }
    void *workspace = options.own_workspace ? nullptr : workspace_arena_.place(workspace_bytes, 64, options.edge);
    const qconv_saved saved = qconv_layer_saved(layer);
    const float *x = saved == QCONV_SAVES_INPUT ? x_arena_.place(data.x, options.edge) : nullptr;
    const float *gy = grad_arenas_[0].place(data.grad_output, options.edge);
    const bool biased = config.kind == QCONV_LAYER_CONV1D;
    const size_t sizes[] = {data.x.size(), static_cast<size_t>(weight_count(config)),
                            biased ? static_cast<size_t>(config.out_channels) : 0};
    const bool wanted[] = {options.input, options.weight, options.bias && biased};
    float *out[3] = {};
    for (int i = 0; i < 3; ++i) {
        // One that is not asked for is an empty buffer amid the pattern.
        const std::vector<float> unwritten(wanted[i] ? sizes[i] : 0, kUnwritten);
        float *placed = grad_arenas_[i + 1].place(unwritten, options.edge);
        out[i] = wanted[i] ? placed : nullptr;
    }
    const uint64_t fallbacks = workspace_fallbacks();
    const qconv_status status = qconv_layer_backward(
        layer, x, saved == QCONV_SAVES_STATE ? state_ : nullptr, saved == QCONV_SAVES_STATE ? state_bytes_ : 0, gy,
        batch, width, out[0], out[1], out[2], workspace, options.own_workspace ? 0 : workspace_bytes);
    if (status != QCONV_OK) return std::string(qconv_status_name(status)) + ": " + qconv_last_error();
    if (workspace_fallbacks() != fallbacks) return "a workspace of the size asked for had no room for scratch";
    static const char *const names[] = {"grad_output", "grad_input", "grad_weight", "grad_bias"};
    for (int i = 0; i < 4; ++i) {
        if (const auto at = grad_arenas_[i].damage(); at != 0) {
            return "wrote at byte " + std::to_string(at) + " of " + names[i];
        }
    }
    if (const auto at = options.own_workspace ? 0 : workspace_arena_.damage(); at != 0) {
        return "wrote at byte " + std::to_string(at) + " of a workspace of " + std::to_string(workspace_bytes);
    }
    std::vector<float> *const results[] = {&gradients_.input, &gradients_.weight, &gradients_.bias};
    for (int i = 0; i < 3; ++i) {
        results[i]->clear();
        if (!wanted[i]) continue;
        results[i]->assign(out[i], out[i] + sizes[i]);
        if (const std::string error = never_written(names[i + 1], *results[i]); !error.empty()) return error;
    }
    return "";
}

} // namespace qconv::test
