#include "layer.h"

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "cpu_features.h"
#include "errors.h"
#include "forward.h"
#include "input_before.h"
#include "quantize.h"
#include "registry.h"
#include "threads.h"
#include "workspace.h"

namespace qconv {
namespace {

// A kernel that goes with another one is of its target, which is the same for all widths.
const qconv_kernel &select_companion(qconv_layer_config config, qconv_op op, const qconv_kernel &other,
                                     DeviceKind device) {
    const std::string target = std::string("@") + other.target;
    config.kernel = target.c_str();
    return select_kernel(config, op, cpu_features(), device);
}

// A quantizer that looks at the whole of x first would have to wait for it.
void check_device_config(const qconv_layer_config &config) {
    const MixedQuantizer input = input_quantizer(config);
    if (input.first.kind != QCONV_WEIGHTDOREFA && (input.mix == 0 || input.next.kind != QCONV_WEIGHTDOREFA)) return;
    throw_invalid("input_quantization", "weightdorefa", "layers on a device take any other input quantizer");
}

} // namespace

void check_weights(const qconv_layer_config &config, const float *weight, const float *bias) {
    require_pointer(weight, "weight");
    if (bias != nullptr && config.kind != QCONV_LAYER_CONV1D) {
        throw Error(QCONV_INVALID_ARGUMENT, "bias is for conv1d only; it must be NULL for the quantized layers");
    }
}

void DestroyLayer::operator()(qconv_layer *layer) const noexcept {
    layer->~qconv_layer();
    release(layer);
}

LayerPointer create_layer(const qconv_layer_config &config, const float *weight, const float *bias,
                          std::shared_ptr<const Device> device) {
    check_config(config);
    check_weights(config, weight, bias);
    if (device != nullptr) check_device_config(config);
    install_halide_hooks();
    Memory memory(sizeof(qconv_layer));
    LayerPointer layer(new (memory.data()) qconv_layer(config, weight, bias, std::move(device)));
    memory.disown();
    return layer;
}

} // namespace qconv

qconv_layer::qconv_layer(const qconv_layer_config &config, const float *weight, const float *bias,
                         std::shared_ptr<const qconv::Device> device)
    : config_(config), device_(std::move(device)), input_(qconv::kernel_input_quantizer(config)) {
    const qconv::DeviceKind kind = device_ == nullptr ? qconv::DeviceKind::Cpu : device_->kind();
    if (qconv::goes(config, QCONV_FORWARD)) {
        forward_.emplace(config_, QCONV_OP_FORWARD, kind);
        if (saved() == QCONV_SAVES_STATE) {
            save_state_ = &qconv::select_companion(config, QCONV_OP_SAVE_STATE, *forward_->first().kernel, kind);
        }
    }
    if (qconv::goes(config, QCONV_GRAD_INPUT)) grad_input_.emplace(config_, QCONV_OP_GRAD_INPUT, kind);
    if (qconv::goes(config, QCONV_GRAD_WEIGHT)) {
        grad_weight_.emplace(config_, QCONV_OP_GRAD_WEIGHT, kind);
        if (device_ != nullptr && config.kind == QCONV_LAYER_CONV1D) {
            grad_bias_ = &qconv::select_companion(config, QCONV_OP_GRAD_BIAS, *grad_weight_->first().kernel, kind);
        }
    }
    // The caller's strings need not live on.
    config_.kernel = config_.grad_input_kernel = config_.grad_weight_kernel = nullptr;
    set_weights(weight, bias);
}

void qconv_layer::set_weights(const float *weight, const float *bias) {
    qconv::check_weights(config_, weight, bias);
    const auto count = static_cast<std::size_t>(config_.out_channels * qconv::window_elements(config_));
    const std::span<const float> weights(weight, count);
    const std::span<const float> biases(bias, bias == nullptr ? 0 : static_cast<std::size_t>(config_.out_channels));
    const qconv::TensorQuantizer quantizer(qconv::weight_quantizer(config_), weights, level_scratch_);
    const qconv::LayerWeights all{quantizer, weights, biases};
    if (forward_) forward_->set_weights(all);
    if (grad_input_) grad_input_->set_weights(all);
    if (grad_weight_) grad_weight_->set_weights(all);
    if (grad_weight_ && qconv::has_weight_factor(config_)) {
        if (weight_factors_.data() == nullptr) weight_factors_ = qconv::Memory(weights.size_bytes());
        qconv::take_derivatives(qconv::weight_quantizer(config_), weights, weight_factors_.as<float>());
    }
    if (device_ != nullptr) upload();
}

const qconv_kernel *qconv_layer::kernel(qconv_direction direction) const {
    switch (direction) {
        case QCONV_FORWARD:
            return forward_ ? forward_->first().kernel : nullptr;
        case QCONV_GRAD_INPUT:
            return grad_input_ ? grad_input_->first().kernel : nullptr;
        case QCONV_GRAD_WEIGHT:
            return grad_weight_ ? grad_weight_->first().kernel : nullptr;
        case QCONV_TRAINING:
            break;
    }
    return nullptr;
}

void qconv_layer::require_direction(qconv_direction direction, const char *why) const {
    if (qconv::goes(config_, direction)) return;
    qconv::throw_invalid("directions", std::to_string(config_.directions),
                         std::string(why) + " needs a layer created with " + std::to_string(direction) + " among them");
}

std::int64_t qconv_layer::largest_batch(std::int64_t width) const {
    const std::int64_t width_out = this->width_out(width);
    // A short row still takes whole words of the state.
    const std::int64_t inputs = std::max(width, state_planes() * qconv::state_words(width));
    if (inputs > qconv::max_elements / config_.in_channels || width_out > qconv::max_elements / config_.out_channels) {
        qconv::throw_invalid(
            "width", std::to_string(width),
            "one sample of x and one of y must have at most " + std::to_string(qconv::max_elements) + " elements");
    }
    return qconv::max_elements / std::max(inputs * config_.in_channels, width_out * config_.out_channels);
}

void qconv_layer::check_forward(std::int64_t batch, std::int64_t width) const {
    qconv::check_batch(batch);
    require_direction(QCONV_FORWARD, "forward");
    (void)largest_batch(width); // throws for a width out of range
}

qconv::Plan qconv_layer::forward_plan(const qconv_kernel &kernel, std::int64_t batch, std::int64_t width,
                                      int threads) const {
    const std::int64_t samples = std::clamp<std::int64_t>(batch, 1, largest_batch(width));
    return qconv::make_plan(kernel, config_, samples, width, threads);
}

std::size_t qconv_layer::workspace_size(std::int64_t batch, std::int64_t width, int threads) const {
    check_forward(batch, width);
    return forward_plan(forward_->kernel(width), batch, width, threads).workspace();
}

void qconv_layer::forward(const float *x, std::int64_t batch, std::int64_t width, float *y, qconv::Workspace workspace,
                          int threads) const {
    require_place(false);
    check_forward(batch, width);
    if (batch == 0) return;
    qconv::require_pointer(x, "x");
    qconv::require_pointer(y, "y");
    const ForwardVariant &variant = forward_->at(width);
    const qconv::Plan plan = forward_plan(*variant.kernel, batch, width, threads);
    const qconv::WorkspaceLease lease(workspace.data, workspace.bytes, plan.workspace());
    run_forward(variant, plan, x, batch, width, y, lease.data());
}

void qconv_layer::run_forward(const ForwardVariant &variant, const qconv::Plan &plan, const float *x,
                              std::int64_t batch, std::int64_t width, float *y, void *workspace) const {
    const std::int64_t outputs = config_.out_channels * plan.width_out;
    const qconv::Divisors divisors = qconv::input_divisors(input_);
    const qconv::InputBefore before(config_, x, batch, width, workspace, plan.workspace(), plan.input);
    for (std::int64_t done = 0; done < batch; done += plan.samples) {
        const std::int64_t samples = std::min(plan.samples, batch - done);
        qconv::CallContext context(workspace, plan.slab, plan.workers, plan.extra);
        const qconv::ForwardInput input{.x = before.at(done, samples),
                                        .y = y + done * outputs,
                                        .batch = samples,
                                        .width = width,
                                        .divisor = divisors.first,
                                        .next_divisor = divisors.next};
        qconv::call_forward(*variant.kernel, config_, variant.packed, input_, plan, input, context);
    }
}
