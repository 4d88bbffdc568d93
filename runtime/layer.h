// A layer: a configuration, the kernels chosen for it, its packed weights, and workspaces to reuse.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "backward.h"
#include "config.h"
#include "device.h"
#include "memory.h"
#include "pack.h"
#include "pack_grad_input.h"
#include "plan.h"
#include "plan_backward.h"
#include "pool.h"
#include "qconv/qconv.h"
#include "surrogate.h"
#include "variants.h"

namespace qconv {

/// Scratch memory that a caller brings; NULL for the layer's own.
struct Workspace {
    void *data;
    std::size_t bytes;
};

/// A state that a caller brings.
struct StateView {
    const void *data;
    std::size_t bytes;
};

/// What backward is asked for; NULL where it is not.
struct GradientPointers {
    float *input;
    float *weight;
    float *bias;
};

} // namespace qconv

/// The C ABI's opaque type.
struct qconv_layer {
public:
    /// On a device, or on the CPU (NULL).
    qconv_layer(const qconv_layer_config &config, const float *weight, const float *bias,
                std::shared_ptr<const qconv::Device> device);

    /// No other call may use the layer meanwhile.
    void set_weights(const float *weight, const float *bias);

    std::int64_t width_out(std::int64_t width) const { return qconv::width_out(config_, width); }
    /// On at most so many threads, here and in forward.
    std::size_t workspace_size(std::int64_t batch, std::int64_t width, int threads) const;
    void forward(const float *x, std::int64_t batch, std::int64_t width, float *y, qconv::Workspace workspace,
                 int threads) const;

    qconv_saved saved() const { return qconv::saved(config_); }
    /// Planes of the state; 0 unless the layer saves one.
    int state_planes() const {
        return saved() == QCONV_SAVES_STATE ? qconv::state_planes(qconv::state_bits(config_)) : 0;
    }
    std::size_t state_size(std::int64_t batch, std::int64_t width) const;
    std::size_t training_workspace_size(std::int64_t batch, std::int64_t width) const;
    void forward_training(const float *x, std::int64_t batch, std::int64_t width, float *y, void *state,
                          std::size_t state_bytes, qconv::Workspace workspace) const;
    void backward(const float *x, qconv::StateView state, const float *grad_output, std::int64_t batch,
                  std::int64_t width, const qconv::GradientPointers &gradients, qconv::Workspace workspace) const;

    /// The same with tensors in the memory of the layer's device, put on one of its streams (NULL: the device's own).
    void forward_on(const void *x, std::int64_t batch, std::int64_t width, void *y, void *stream) const;
    void forward_training_on(const void *x, std::int64_t batch, std::int64_t width, void *y, void *state,
                             std::size_t state_bytes, void *stream) const;
    void backward_on(const void *x, qconv::StateView state, const void *grad_output, std::int64_t batch,
                     std::int64_t width, const qconv::GradientPointers &gradients, void *stream) const;

    /// That of the configuration's width; NULL unless the layer was created for this direction.
    const qconv_kernel *kernel(qconv_direction direction) const;
    std::size_t packed_bytes() const {
        return (forward_ ? forward_->bytes() : 0) + (grad_input_ ? grad_input_->bytes() : 0) + weight_factors_.bytes();
    }

private:
    using ForwardVariant = qconv::Variant<qconv::PackedForward>;
    using GradInputVariant = qconv::Variant<qconv::PackedGradInput>;

    /// Throws unless the layer was created for this direction; `why` says what needs it.
    void require_direction(qconv_direction direction, const char *why) const;
    /// Throws unless the layer is on the CPU, or on a device.
    void require_place(bool on_device) const;
    /// Throws when one call cannot take this batch of device memory.
    void check_device_batch(std::int64_t batch, std::int64_t width) const;
    void check_device_tiles(const qconv_kernel &kernel, std::int64_t positions) const;
    /// Throws unless the layer has a bias whose gradient was asked for.
    void require_bias_gradient() const;
    void upload();
    qconv::DeviceCall device_call(void *stream) const;
    qconv::Plan device_plan(std::int64_t width) const;
    /// Samples that one call of a kernel may take: it indexes elements in int32.
    std::int64_t largest_batch(std::int64_t width) const;
    void check_forward(std::int64_t batch, std::int64_t width) const;
    qconv::Plan forward_plan(const qconv_kernel &kernel, std::int64_t batch, std::int64_t width, int threads) const;
    qconv::GradInputPlan grad_input_plan(const qconv_kernel &kernel, std::int64_t batch, std::int64_t width) const;
    qconv::GradWeightPlan grad_weight_plan(const qconv_kernel &kernel, std::int64_t batch, std::int64_t width) const;
    void run_forward(const ForwardVariant &variant, const qconv::Plan &plan, const float *x, std::int64_t batch,
                     std::int64_t width, float *y, void *workspace) const;
    void save_state(const qconv::Plan &plan, const float *x, std::int64_t batch, std::int64_t width,
                    std::uint32_t *state, void *workspace) const;
    void run_grad_input(const GradInputVariant &variant, const qconv::GradInputPlan &plan,
                        const qconv::BackwardInput &input, float *grad_input, void *workspace) const;
    void run_grad_weight(const qconv_kernel &kernel, const qconv::GradWeightPlan &plan,
                         const qconv::BackwardInput &input, float *grad_weight, void *workspace) const;

    qconv_layer_config config_;
    std::shared_ptr<const qconv::Device> device_;
    std::array<qconv::DeviceArray, 8> arrays_; // what the kernels of a device read besides the caller's tensors
    qconv::MixedQuantizer input_;
    // Of the directions that the layer was created for.
    std::optional<qconv::Variants<qconv::PackedForward>> forward_;
    std::optional<qconv::Variants<qconv::PackedGradInput>> grad_input_;
    std::optional<qconv::Variants<qconv::NoWeights>> grad_weight_;
    const qconv_kernel *save_state_ = nullptr; // for layers that save a state
    const qconv_kernel *grad_bias_ = nullptr;  // on devices
    qconv::Memory weight_factors_; // derivatives of the weight's quantizer; only where grad_weight needs them
    qconv::PackScratch level_scratch_;
    qconv::WorkspacePool::User pool_user_;
};

namespace qconv {

struct DestroyLayer {
    void operator()(qconv_layer *layer) const noexcept;
};
using LayerPointer = std::unique_ptr<qconv_layer, DestroyLayer>;

/// Throws unless the pointers are what the kind of layer takes.
void check_weights(const qconv_layer_config &config, const float *weight, const float *bias);

/// Checks the configuration; bias may be NULL, and must be for all but conv1d.
LayerPointer create_layer(const qconv_layer_config &config, const float *weight, const float *bias,
                          std::shared_ptr<const Device> device = nullptr);

} // namespace qconv
