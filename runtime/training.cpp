// The training calls of a layer.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "backward.h"
#include "errors.h"
#include "grad_bias.h"
#include "input_before.h"
#include "layer.h"
#include "qconv/layout.h"
#include "threads.h"
#include "workspace.h"

namespace qconv {
namespace {

std::int64_t state_words_per_sample(const qconv_layer_config &config, std::int64_t width) {
    return state_planes(state_bits(config)) * state_words(width) * config.in_channels;
}

void check_state(StateView state, std::size_t needed) {
    require_pointer(state.data, "state");
    if (reinterpret_cast<std::uintptr_t>(state.data) % sizeof(std::uint32_t) != 0) {
        throw Error(QCONV_INVALID_ARGUMENT, "state is not aligned to 4 bytes");
    }
    if (state.bytes < needed) {
        throw_invalid("state_bytes", std::to_string(state.bytes), "this call needs " + std::to_string(needed));
    }
}

// At most `samples` of a batch, from `first` on.
BackwardInput slice(const qconv_layer_config &config, const BackwardInput &input, std::int64_t first,
                    std::int64_t samples) {
    BackwardInput part = input;
    if (part.x != nullptr) part.x += first * config.in_channels * input.width;
    if (part.state != nullptr) part.state += first * state_words_per_sample(config, input.width);
    part.grad_output += first * config.out_channels * width_out(config, input.width);
    part.batch = std::min(samples, input.batch - first);
    return part;
}

GradBiasPlan bias_plan(const qconv_layer_config &config, std::int64_t batch, std::int64_t width) {
    return plan_grad_bias(batch, config.out_channels, width_out(config, width), num_threads());
}

void clear(float *values, std::int64_t count) {
    if (values != nullptr) std::fill_n(values, count, 0.0F);
}

} // namespace
} // namespace qconv

std::size_t qconv_layer::state_size(std::int64_t batch, std::int64_t width) const {
    qconv::check_batch(batch);
    (void)largest_batch(width); // throws for a width out of range
    if (saved() != QCONV_SAVES_STATE) return 0;
    return static_cast<std::size_t>(batch * qconv::state_words_per_sample(config_, width)) * sizeof(std::uint32_t);
}

qconv::GradInputPlan qconv_layer::grad_input_plan(const qconv_kernel &kernel, std::int64_t batch,
                                                  std::int64_t width) const {
    return qconv::plan_grad_input(kernel, config_, std::min(batch, largest_batch(width)), width, qconv::num_threads());
}

qconv::GradWeightPlan qconv_layer::grad_weight_plan(const qconv_kernel &kernel, std::int64_t batch,
                                                    std::int64_t width) const {
    return qconv::plan_grad_weight(kernel, config_, batch, largest_batch(width), width, qconv::num_threads());
}

std::size_t qconv_layer::training_workspace_size(std::int64_t batch, std::int64_t width) const {
    qconv::check_batch(batch);
    (void)largest_batch(width);
    batch = std::max<std::int64_t>(batch, 1);
    std::size_t bytes = 0;
    const auto need = [&bytes](const auto &plan) { bytes = std::max(bytes, plan.workspace()); };
    if (forward_) need(forward_plan(forward_->kernel(width), batch, width, qconv::num_threads()));
    if (grad_input_) need(grad_input_plan(grad_input_->kernel(width), batch, width));
    if (grad_weight_) {
        need(grad_weight_plan(grad_weight_->kernel(width), batch, width));
        if (config_.kind == QCONV_LAYER_CONV1D) need(qconv::bias_plan(config_, batch, width));
    }
    return bytes;
}

void qconv_layer::forward_training(const float *x, std::int64_t batch, std::int64_t width, float *y, void *state,
                                   std::size_t state_bytes, qconv::Workspace workspace) const {
    require_place(false);
    check_forward(batch, width);
    if (batch == 0) return;
    qconv::require_pointer(x, "x");
    qconv::require_pointer(y, "y");
    const bool saves_state = saved() == QCONV_SAVES_STATE;
    if (saves_state) qconv::check_state({state, state_bytes}, state_size(batch, width));
    const ForwardVariant &variant = forward_->at(width);
    const qconv::Plan plan = forward_plan(*variant.kernel, batch, width, qconv::num_threads());
    const qconv::WorkspaceLease lease(workspace.data, workspace.bytes, plan.workspace());
    if (saves_state) save_state(plan, x, batch, width, static_cast<std::uint32_t *>(state), lease.data());
    run_forward(variant, plan, x, batch, width, y, lease.data());
}

void qconv_layer::save_state(const qconv::Plan &plan, const float *x, std::int64_t batch, std::int64_t width,
                             std::uint32_t *state, void *workspace) const {
    const std::int64_t largest = largest_batch(width);
    const std::int64_t words = qconv::state_words_per_sample(config_, width);
    for (std::int64_t done = 0; done < batch; done += largest) {
        qconv::CallContext context(workspace, plan.slab, plan.workers);
        qconv::call_save_state(*save_state_, config_, input_, x + done * config_.in_channels * width,
                               std::min(largest, batch - done), width, state + done * words, context);
    }
}

void qconv_layer::require_bias_gradient() const {
    require_direction(QCONV_GRAD_WEIGHT, "grad_bias");
    if (config_.kind == QCONV_LAYER_CONV1D) return;
    throw qconv::Error(QCONV_INVALID_ARGUMENT,
                       "grad_bias is for conv1d only; it must be NULL for the quantized layers");
}

void qconv_layer::backward(const float *x, qconv::StateView state, const float *grad_output, std::int64_t batch,
                           std::int64_t width, const qconv::GradientPointers &gradients,
                           qconv::Workspace workspace) const {
    require_place(false);
    qconv::check_batch(batch);
    (void)largest_batch(width);
    if (gradients.input != nullptr) require_direction(QCONV_GRAD_INPUT, "grad_input");
    if (gradients.weight != nullptr) require_direction(QCONV_GRAD_WEIGHT, "grad_weight");
    if (gradients.bias != nullptr) require_bias_gradient();
    if (batch == 0) {
        qconv::clear(gradients.weight, config_.out_channels * qconv::window_elements(config_));
        qconv::clear(gradients.bias, config_.out_channels);
        return;
    }

    qconv::require_pointer(grad_output, "grad_output");
    const qconv::Surrogate factor =
        gradients.input == nullptr ? qconv::Surrogate::One : qconv::input_surrogate(config_);
    const bool has_state = qconv::state_bits(config_) > 0;
    const bool needs_state = factor == qconv::Surrogate::FromState || (gradients.weight != nullptr && has_state);
    const bool needs_x = factor == qconv::Surrogate::FromInput || factor == qconv::Surrogate::Within ||
                         (gradients.weight != nullptr && !has_state);
    if (needs_state) qconv::check_state(state, state_size(batch, width));
    if (needs_x) qconv::require_pointer(x, "x");
    const qconv::BackwardInput input{.x = needs_x ? x : nullptr,
                                     .state = needs_state ? static_cast<const std::uint32_t *>(state.data) : nullptr,
                                     .grad_output = grad_output,
                                     .batch = batch,
                                     .width = width};

    const GradInputVariant *grad_input = gradients.input == nullptr ? nullptr : &grad_input_->at(width);
    const qconv_kernel *grad_weight = gradients.weight == nullptr ? nullptr : &grad_weight_->kernel(width);
    qconv::GradInputPlan input_plan{};
    qconv::GradWeightPlan weight_plan{};
    qconv::GradBiasPlan bias_plan{};
    if (grad_input != nullptr) input_plan = grad_input_plan(*grad_input->kernel, batch, width);
    if (grad_weight != nullptr) weight_plan = grad_weight_plan(*grad_weight, batch, width);
    if (gradients.bias != nullptr) bias_plan = qconv::bias_plan(config_, batch, width);
    const std::size_t bytes = std::max({input_plan.workspace(), weight_plan.workspace(), bias_plan.workspace()});
    const qconv::WorkspaceLease lease(workspace.data, workspace.bytes, bytes);
    if (grad_input != nullptr) run_grad_input(*grad_input, input_plan, input, gradients.input, lease.data());
    if (grad_weight != nullptr) run_grad_weight(*grad_weight, weight_plan, input, gradients.weight, lease.data());
    if (gradients.bias != nullptr) {
        qconv::CallContext context(lease.data(), bias_plan.slab, bias_plan.workers);
        qconv::sum_grad_bias(grad_output, batch, config_.out_channels, width_out(width), gradients.bias, context);
    }
}

void qconv_layer::run_grad_input(const GradInputVariant &variant, const qconv::GradInputPlan &plan,
                                 const qconv::BackwardInput &input, float *grad_input, void *workspace) const {
    const std::int64_t largest = largest_batch(input.width);
    for (std::int64_t done = 0; done < input.batch; done += largest) {
        qconv::CallContext context(workspace, plan.slab, plan.workers);
        qconv::call_grad_input(*variant.kernel, config_, variant.packed, plan,
                               qconv::slice(config_, input, done, largest),
                               grad_input + done * config_.in_channels * input.width, context);
    }
}

void qconv_layer::run_grad_weight(const qconv_kernel &kernel, const qconv::GradWeightPlan &plan,
                                  const qconv::BackwardInput &input, float *grad_weight, void *workspace) const {
    const qconv::Divisors divisors = qconv::input_divisors(input_);
    const std::int64_t weights = config_.out_channels * qconv::window_elements(config_);
    const qconv::InputBefore before(config_, input.x, input.batch, input.width, workspace, plan.workspace(),
                                    plan.input);
    auto *sums =
        reinterpret_cast<float *>(static_cast<std::byte *>(workspace) + plan.workspace() - plan.input - plan.sums);
    for (std::int64_t done = 0; done < input.batch; done += plan.samples) {
        qconv::BackwardInput part = qconv::slice(config_, input, done, plan.samples);
        part.x = before.at(done, part.batch);
        qconv::CallContext context(workspace, plan.slab, plan.workers, plan.extra);
        qconv::call_grad_weight(kernel, config_, input_, plan, part, divisors, weight_factors_.as<float>(),
                                done == 0 ? grad_weight : sums, context);
        if (done > 0) std::transform(grad_weight, grad_weight + weights, sums, grad_weight, std::plus<>());
    }
}
