// Layers on a device: what is uploaded, and the calls on device memory.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "backward.h"
#include "device.h"
#include "errors.h"
#include "forward.h"
#include "layer.h"
#include "qconv/layout.h"
#include "workspace.h"

namespace qconv {
namespace {

// For buffers that a kernel gets and does not read.
alignas(memory_alignment) const std::array<std::byte, memory_alignment> unread{};

/// Positions that a grad_weight kernel sums in one piece: few enough that the blocks of all pieces occupy a large GPU,
/// many enough that the pieces' sums take little memory.
GradWeightPlan grad_weight_plan(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t width_out,
                                std::int64_t batch) {
    constexpr std::int64_t enough_blocks = 1024, most_sums = std::int64_t{1} << 24, most_positions = 1 << 21;
    const std::int64_t outputs = ceil_div(out_in_group(config), kernel.out_block),
                       channels = ceil_div(channels_in_group(config), kernel.channel_block),
                       taps = ceil_div(config.kernel_size, kernel.tap_block),
                       blocks = outputs * channels * taps * config.groups;
    const std::int64_t sums = blocks * kernel.out_block * kernel.channel_block * kernel.tap_block;
    const std::int64_t positions = ceil_div(width_out, kernel.width_block) * batch;
    const std::int64_t pieces =
        std::clamp(std::min(ceil_div(enough_blocks, blocks), most_sums / sums), std::int64_t{1}, positions);
    GradWeightPlan plan{};
    plan.width_out = width_out;
    plan.tile_width = std::min(ceil_div(positions, pieces) * kernel.width_block, most_positions);
    plan.tile_channels = kernel.channel_block;
    plan.workers = 1;
    return plan;
}

/// A call's context: kernels of a device take no scratch of the host beyond what they find in here.
class OnDevice {
public:
    explicit OnDevice(const DeviceCall &call) : context_(memory_, slab_bytes(scratch), 1) {
        context_.set_device(&call);
    }
    CallContext &context() { return context_; }

private:
    static constexpr std::size_t scratch = 512;
    alignas(memory_alignment) std::byte memory_[1024];
    CallContext context_;
};

} // namespace
} // namespace qconv

void qconv_layer::require_place(bool on_device) const {
    if ((device_ != nullptr) == on_device) return;
    throw qconv::Error(QCONV_INVALID_ARGUMENT,
                       on_device ? "the layer is on the CPU: call the function of this name without _on, or create "
                                   "it with qconv_layer_create_on"
                                 : "the layer is on a device: call the function of this name with _on");
}

void qconv_layer::check_device_batch(std::int64_t batch, std::int64_t width) const {
    qconv::check_batch(batch);
    const std::int64_t largest = largest_batch(width);
    if (batch <= largest) return;
    qconv::throw_invalid("batch", std::to_string(batch),
                         "on a device, at this width, it must be at most " + std::to_string(largest));
}

void qconv_layer::check_device_tiles(const qconv_kernel &kernel, std::int64_t positions) const {
    constexpr std::int64_t most_tiles = 65535; // of a grid's second and third dimension
    const std::int64_t largest = most_tiles * kernel.width_block;
    if (positions <= largest) return;
    qconv::throw_invalid("the width of the result", std::to_string(positions),
                         std::string("kernel ") + kernel.name + " makes at most " + std::to_string(largest) +
                             " on a device; without a width in the layer's configuration one for long rows is chosen");
}

void qconv_layer::upload() {
    // Kernels of earlier calls may still read what is there.
    arrays_.front().wait();
    std::size_t next = 0;
    const auto put = [&](const void *host, std::size_t bytes) {
        if (bytes > 0) arrays_[next++].upload(device_, host, bytes);
    };
    put(qconv::unread.data(), qconv::unread.size());
    const auto put_memory = [&put](const qconv::Memory &memory) { put(memory.data(), memory.bytes()); };
    if (forward_) {
        const qconv::PackedForward &packed = forward_->first().packed;
        put_memory(packed.weight), put_memory(packed.offset), put_memory(packed.edge);
    }
    if (grad_input_) {
        const qconv::PackedGradInput &packed = grad_input_->first().packed;
        put_memory(packed.weight), put_memory(packed.taps.shift), put_memory(packed.taps.phase_start);
    }
    put_memory(weight_factors_);
}

qconv::DeviceCall qconv_layer::device_call(void *stream) const {
    return {device_.get(), stream == nullptr ? device_->stream() : stream, arrays_};
}

// Blocks of threads cut a call up; of the plan only the sizes matter.
qconv::Plan qconv_layer::device_plan(std::int64_t width) const {
    qconv::Plan plan{};
    plan.width_out = width_out(width);
    plan.tile_width = forward_->first().kernel->width_block;
    plan.workers = 1;
    return plan;
}

void qconv_layer::forward_on(const void *x, std::int64_t batch, std::int64_t width, void *y, void *stream) const {
    require_place(true);
    require_direction(QCONV_FORWARD, "forward");
    check_device_batch(batch, width);
    if (batch == 0) return;
    check_device_tiles(*forward_->first().kernel, width_out(width));
    device_->require_pointer(x, "x");
    device_->require_pointer(y, "y");
    const qconv::DeviceCall call = device_call(stream);
    qconv::OnDevice on_device(call);
    const qconv::Divisors divisors = qconv::input_divisors(input_);
    const qconv::ForwardInput input{.x = static_cast<const float *>(x),
                                    .y = static_cast<float *>(y),
                                    .batch = batch,
                                    .width = width,
                                    .divisor = divisors.first,
                                    .next_divisor = divisors.next};
    qconv::call_forward(*forward_->first().kernel, config_, forward_->first().packed, input_, device_plan(width), input,
                        on_device.context());
}

void qconv_layer::forward_training_on(const void *x, std::int64_t batch, std::int64_t width, void *y, void *state,
                                      std::size_t state_bytes, void *stream) const {
    require_place(true);
    if (saved() == QCONV_SAVES_STATE && batch > 0) {
        require_direction(QCONV_FORWARD, "forward");
        check_device_batch(batch, width);
        device_->require_pointer(x, "x");
        device_->require_pointer(state, "state");
        if (const std::size_t needed = state_size(batch, width); state_bytes < needed) {
            qconv::throw_invalid("state_bytes", std::to_string(state_bytes),
                                 "this call needs " + std::to_string(needed));
        }
        const qconv::DeviceCall call = device_call(stream);
        qconv::OnDevice on_device(call);
        qconv::call_save_state(*save_state_, config_, input_, static_cast<const float *>(x), batch, width,
                               static_cast<std::uint32_t *>(state), on_device.context());
    }
    forward_on(x, batch, width, y, stream);
}

void qconv_layer::backward_on(const void *x, qconv::StateView state, const void *grad_output, std::int64_t batch,
                              std::int64_t width, const qconv::GradientPointers &gradients, void *stream) const {
    require_place(true);
    if (gradients.input != nullptr) {
        require_direction(QCONV_GRAD_INPUT, "grad_input");
        check_device_tiles(*grad_input_->first().kernel, qconv::ceil_div(width, config_.stride));
    }
    if (gradients.weight != nullptr) require_direction(QCONV_GRAD_WEIGHT, "grad_weight");
    if (gradients.bias != nullptr) require_bias_gradient();
    if (batch < 1) qconv::throw_invalid("batch", std::to_string(batch), "backward on a device needs at least 1");
    check_device_batch(batch, width);
    device_->require_pointer(grad_output, "grad_output");
    if (saved() == QCONV_SAVES_INPUT) device_->require_pointer(x, "x");
    if (saved() == QCONV_SAVES_STATE) {
        device_->require_pointer(state.data, "state");
        if (const std::size_t needed = state_size(batch, width); state.bytes < needed) {
            qconv::throw_invalid("state_bytes", std::to_string(state.bytes),
                                 "this call needs " + std::to_string(needed));
        }
    }
    if (gradients.input != nullptr) device_->require_pointer(gradients.input, "grad_input");
    if (gradients.weight != nullptr) device_->require_pointer(gradients.weight, "grad_weight");
    if (gradients.bias != nullptr) device_->require_pointer(gradients.bias, "grad_bias");

    const qconv::DeviceCall call = device_call(stream);
    const qconv::BackwardInput input{
        .x = saved() == QCONV_SAVES_INPUT ? static_cast<const float *>(x) : nullptr,
        .state = saved() == QCONV_SAVES_STATE ? static_cast<const std::uint32_t *>(state.data) : nullptr,
        .grad_output = static_cast<const float *>(grad_output),
        .batch = batch,
        .width = width};
    if (gradients.input != nullptr) {
        qconv::OnDevice on_device(call);
        const qconv_kernel &kernel = *grad_input_->first().kernel;
        const qconv::GradInputPlan plan{.tile_width = kernel.width_block, .workers = 1, .slab = 0};
        qconv::call_grad_input(kernel, config_, grad_input_->first().packed, plan, input, gradients.input,
                               on_device.context());
    }
    if (gradients.weight != nullptr) {
        qconv::OnDevice on_device(call);
        const qconv_kernel &kernel = *grad_weight_->first().kernel;
        const qconv::GradWeightPlan plan = qconv::grad_weight_plan(kernel, config_, width_out(width), batch);
        qconv::call_grad_weight(kernel, config_, input_, plan, input, qconv::input_divisors(input_),
                                weight_factors_.as<float>(), gradients.weight, on_device.context());
    }
    if (gradients.bias != nullptr) {
        qconv::OnDevice on_device(call);
        qconv::call_grad_bias(*grad_bias_, config_, input.grad_output, batch, width, gradients.bias,
                              on_device.context());
    }
}
