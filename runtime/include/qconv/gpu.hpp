// qconv for C++20 on a GPU: a context and layers on it, over the device calls of qconv.h. Header-only; link the GPU
// kernels and the Halide runtime with GPU support (docs/gpu.md).
//
//     qconv_register_gpu_kernels();                             // or a compiled layer's NAME_register()
//     const qconv::Gpu gpu = qconv::Gpu::cuda(0);               // throws, with the reason, where there is none
//     const qconv::GpuLayer layer(gpu, config, weight);         // host memory: packed here, uploaded once
//     layer.forward(x, batch, width, y, stream);                // device memory; returns when the work is on the
//     stream
//
// Tensors have the shapes of qconv.hpp and lie in device memory (CUDA: addresses; OpenCL: cl_mem); weights come from
// host memory. Streams are CUstreams (cudaStream_t) or cl_command_queues; NULL is CUDA's default stream, or the queue
// of the Gpu. Every function here throws qconv::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "qconv/qconv.hpp"

namespace qconv {

/// A CUDA or OpenCL context that layers live in. Movable, not copyable; layers keep what they need of it.
class Gpu {
public:
    /// A CUcontext, or NULL for the primary context of this GPU: what PyTorch and the CUDA runtime use.
    static Gpu cuda(int ordinal = 0, void *context = nullptr) {
        qconv_device *device = nullptr;
        check(qconv_device_open_cuda(ordinal, context, &device));
        return Gpu(device);
    }
    /// A cl_context and a cl_command_queue of it, which must outlive the layers.
    static Gpu opencl(void *context, void *queue) {
        qconv_device *device = nullptr;
        check(qconv_device_open_opencl(context, queue, &device));
        return Gpu(device);
    }

    /// CUDA: scratch from the program's own pool of device memory (qconv_device_set_allocator says when it is called).
    /// Both NULL restore the default.
    void set_allocator(qconv_device_allocate_fn allocate, qconv_device_release_fn release, void *context = nullptr) {
        check(qconv_device_set_allocator(device_.get(), allocate, release, context));
    }

    /// For the C ABI; the Gpu stays the owner.
    qconv_device *get() const { return device_.get(); }

private:
    explicit Gpu(qconv_device *device) : device_(device) {}

    struct Close {
        void operator()(qconv_device *device) const noexcept { qconv_device_close(device); }
    };
    std::unique_ptr<qconv_device, Close> device_;
};

/// What GpuLayer::backward computes, in device memory; NULL is left out.
struct GpuGradients {
    void *input = nullptr;  ///< shaped as x
    void *weight = nullptr; ///< shaped as weight
    void *bias = nullptr;   ///< [out_channels], conv1d only
};

/// A layer on a Gpu. Movable, not copyable. Its const functions may run on several threads and streams at once.
class GpuLayer {
public:
    /// weight and bias, in host memory, as for Layer.
    GpuLayer(const Gpu &gpu, const qconv_layer_config &config, std::span<const float> weight,
             std::span<const float> bias = {})
        : out_channels_(config.out_channels) {
        check(qconv_layer_config_check(&config));
        weights_ = config.out_channels * (config.in_channels / config.groups) * config.kernel_size;
        require_sizes(weight, bias);
        qconv_layer *layer = nullptr;
        check(qconv_layer_create_on(gpu.get(), &config, weight.data(), data_or_null(bias), &layer));
        layer_.reset(layer);
    }

    /// New weights, in host memory: packs on the CPU, waits for work that reads the old ones, uploads. No other
    /// function of the layer may run meanwhile.
    void set_weights(std::span<const float> weight, std::span<const float> bias = {}) {
        require_sizes(weight, bias);
        check(qconv_layer_set_weights(layer_.get(), weight.data(), data_or_null(bias)));
    }

    /// Output positions for an input of `width` positions.
    std::int64_t width_out(std::int64_t width) const {
        std::int64_t result = 0;
        check(qconv_layer_width_out(layer_.get(), width, &result));
        return result;
    }

    /// x [batch, in_channels, width] to y [batch, out_channels, width_out(width)].
    void forward(const void *x, std::int64_t batch, std::int64_t width, void *y, void *stream = nullptr) const {
        check(qconv_layer_forward_on(layer_.get(), x, batch, width, y, stream));
    }

    /// What backward needs of the forward pass: nothing, the state, or x itself.
    qconv_saved saved() const { return qconv_layer_saved(layer_.get()); }
    /// Bytes of the state for this input size; 0 unless saved() is QCONV_SAVES_STATE.
    std::size_t state_bytes(std::int64_t batch, std::int64_t width) const {
        std::size_t bytes = 0;
        check(qconv_layer_state_size(layer_.get(), batch, width, &bytes));
        return bytes;
    }

    /// forward, and the state, of state_bytes(batch, width) bytes of device memory.
    void forward_training(const void *x, std::int64_t batch, std::int64_t width, void *y, void *state,
                          void *stream = nullptr) const {
        check(qconv_layer_forward_training_on(layer_.get(), x, batch, width, y, state, state_bytes(batch, width),
                                              stream));
    }

    /// Gradients from grad_output, shaped as y, of a batch of at least 1. Of x and state the one that the layer does
    /// not save may be NULL.
    void backward(const void *x, const void *state, const void *grad_output, std::int64_t batch, std::int64_t width,
                  const GpuGradients &gradients, void *stream = nullptr) const {
        check(qconv_layer_backward_on(layer_.get(), x, state, state_bytes(batch, width), grad_output, batch, width,
                                      gradients.input, gradients.weight, gradients.bias, stream));
    }

    /// The kernel that serves this layer in one direction, which must be one that the layer was created for.
    const qconv_kernel &kernel(qconv_direction direction = QCONV_FORWARD) const {
        const qconv_kernel *kernel = qconv_layer_kernel(layer_.get(), direction);
        if (kernel == nullptr) throw Error(QCONV_INVALID_ARGUMENT, "the layer was not created for this direction");
        return *kernel;
    }

    /// For the C ABI; the layer stays the owner.
    qconv_layer *get() const { return layer_.get(); }

private:
    static const float *data_or_null(std::span<const float> values) { return values.empty() ? nullptr : values.data(); }
    void require_sizes(std::span<const float> weight, std::span<const float> bias) const {
        require_size("weight", weight.size(), weights_);
        if (!bias.empty()) require_size("bias", bias.size(), out_channels_);
    }
    static void require_size(const char *name, std::size_t size, std::int64_t expected) {
        if (expected >= 0 && size == static_cast<std::size_t>(expected)) return;
        throw Error(QCONV_INVALID_ARGUMENT, std::string(name) + " has " + std::to_string(size) +
                                                " values; the shape needs " + std::to_string(expected));
    }

    struct Destroy {
        void operator()(qconv_layer *layer) const noexcept { qconv_layer_destroy(layer); }
    };

    std::unique_ptr<qconv_layer, Destroy> layer_;
    std::int64_t out_channels_;
    std::int64_t weights_ = 0;
};

} // namespace qconv
