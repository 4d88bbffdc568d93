// qconv for C++20: a layer that owns itself, over the C ABI of qconv.h. Header-only; link the qconv library.
//
//     qconv_register_generic_kernels();                       // or a compiled layer's NAME_register()
//     auto config = qconv::qconv1d(256, 512, 3);              // channels in, out, taps; sign on both sides
//     config.dilation = 4;
//     qconv::pad_same(config);
//     const qconv::Layer layer(config, weight);
//     std::vector<float> y = layer.forward(x, batch, width);
//
// Tensors are PyTorch's, float32, C order, no gaps: x [batch, in_channels, width],
// weight [out_channels, in_channels/groups, kernel_size], bias [out_channels], y [batch, out_channels, width_out].
// Every function here throws qconv::Error, which says which field was wrong, its value, and what is allowed.
#pragma once

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L || !defined(__cpp_exceptions)
#error "qconv.hpp needs C++20 and exceptions (-std=c++20); qconv/qconv.h, the C interface, needs neither"
#else

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "qconv/error.hpp"
#include "qconv/qconv.h"

namespace qconv {

/// Throws the thread's last error unless `status` is QCONV_OK.
inline void check(qconv_status status) {
    if (status != QCONV_OK) throw Error(status, qconv_last_error());
}

/// Every kernel that is registered by now.
inline std::vector<const qconv_kernel *> kernels() {
    std::vector<const qconv_kernel *> rows;
    while (const qconv_kernel *row = qconv_kernel_at(rows.size()))
        rows.push_back(row);
    return rows;
}

/// A quantizer by bitorch's name ("sign", "weightdorefa", ...). bits: for the two DoReFa kinds, 1..8.
inline qconv_quantizer quantizer(const std::string &name, int bits = 1) {
    qconv_quantizer_kind kind = QCONV_IDENTITY;
    check(qconv_quantizer_from_name(name.c_str(), &kind));
    qconv_quantizer result = qconv_quantizer_default(kind);
    result.bits = bits;
    return result;
}

/// A configuration with stride 1, dilation 1, groups 1 and no padding; set other fields afterwards.
inline qconv_layer_config config(qconv_layer_kind kind, std::int64_t in_channels, std::int64_t out_channels,
                                 std::int64_t kernel_size) {
    qconv_layer_config result;
    qconv_layer_config_init(&result, kind);
    result.in_channels = in_channels;
    result.out_channels = out_channels;
    result.kernel_size = kernel_size;
    return result;
}

/// y = conv(pad(x, 0), weight) + bias.
inline qconv_layer_config conv1d(std::int64_t in_channels, std::int64_t out_channels, std::int64_t kernel_size) {
    return config(QCONV_LAYER_CONV1D, in_channels, out_channels, kernel_size);
}

/// bitorch's QConv1d: both sides quantized (by sign, until other quantizers are set), pad_value -1.
inline qconv_layer_config qconv1d(std::int64_t in_channels, std::int64_t out_channels, std::int64_t kernel_size) {
    return config(QCONV_LAYER_QCONV1D, in_channels, out_channels, kernel_size);
}

/// bitorch's QConv1d_NoAct: only the weight is quantized (by sign, until another quantizer is set), pad_value -1.
inline qconv_layer_config qconv1d_noact(std::int64_t in_channels, std::int64_t out_channels, std::int64_t kernel_size) {
    return config(QCONV_LAYER_NOACT, in_channels, out_channels, kernel_size);
}

/// PyTorch's padding='same', from kernel_size and dilation; needs stride 1.
inline void pad_same(qconv_layer_config &config) {
    check(qconv_layer_config_pad_same(&config));
}

/// What backward computes; an empty span is left out.
struct Gradients {
    std::span<float> input = {};  ///< shaped as x
    std::span<float> weight = {}; ///< shaped as weight
    std::span<float> bias = {};   ///< [out_channels], conv1d only
};

/// A layer with its weights packed. Movable, not copyable. Its const functions may run on several threads at once.
/// To train:
///
///     config.directions = QCONV_TRAINING;
///     qconv::Layer layer(config, weight);
///     std::vector<std::uint32_t> state(layer.state_words(batch, width));
///     layer.forward_training(x, batch, width, y, state);
///     layer.backward(x, state, grad_output, batch, width, {.input = grad_input, .weight = grad_weight});
///     layer.set_weights(new_weight);
class Layer {
public:
    /// weight: out_channels * in_channels/groups * kernel_size values. bias: out_channels values, or empty; conv1d
    /// only.
    explicit Layer(const qconv_layer_config &config, std::span<const float> weight, std::span<const float> bias = {})
        : in_channels_(config.in_channels), out_channels_(config.out_channels) {
        check(qconv_layer_config_check(&config));
        weights_ = out_channels_ * (in_channels_ / config.groups) * config.kernel_size;
        require_weights(weight, bias);
        qconv_layer *layer = nullptr;
        check(qconv_layer_create(&config, weight.data(), data_or_null(bias), &layer));
        layer_.reset(layer);
    }

    /// New weights for the same layer. No other function of it may run meanwhile.
    void set_weights(std::span<const float> weight, std::span<const float> bias = {}) {
        require_weights(weight, bias);
        check(qconv_layer_set_weights(layer_.get(), weight.data(), data_or_null(bias)));
    }

    /// Output positions for an input of `width` positions.
    std::int64_t width_out(std::int64_t width) const {
        std::int64_t result = 0;
        check(qconv_layer_width_out(layer_.get(), width, &result));
        return result;
    }

    /// Bytes of scratch that forward needs at the present thread setting.
    std::size_t workspace_size(std::int64_t batch, std::int64_t width) const {
        std::size_t bytes = 0;
        check(qconv_layer_workspace_size(layer_.get(), batch, width, &bytes));
        return bytes;
    }

    /// Writes batch * out_channels * width_out(width) values to y, which must not overlap x. With a 64-byte aligned
    /// workspace of workspace_size(batch, width) bytes the call allocates nothing; without, the library keeps
    /// one for all layers.
    void forward(std::span<const float> x, std::int64_t batch, std::int64_t width, std::span<float> y,
                 std::span<std::byte> workspace = {}) const {
        const std::int64_t outputs = width_out(width);
        require_size("x", x.size(), batch * in_channels_ * width);
        require_size("y", y.size(), batch * out_channels_ * outputs);
        check(qconv_layer_forward(layer_.get(), x.data(), batch, width, y.data(), data_or_null(workspace),
                                  workspace.size()));
    }

    /// The same into a new vector.
    std::vector<float> forward(std::span<const float> x, std::int64_t batch, std::int64_t width) const {
        const std::int64_t outputs = width_out(width);
        require_size("x", x.size(), batch * in_channels_ * width);
        std::vector<float> y(static_cast<std::size_t>(batch * out_channels_ * outputs));
        forward(x, batch, width, y);
        return y;
    }

    /// What backward needs of the forward pass: nothing, the state, or x itself.
    qconv_saved saved() const { return qconv_layer_saved(layer_.get()); }
    /// Elements of the state for this input size; 0 unless saved() is QCONV_SAVES_STATE.
    std::size_t state_words(std::int64_t batch, std::int64_t width) const {
        std::size_t bytes = 0;
        check(qconv_layer_state_size(layer_.get(), batch, width, &bytes));
        return bytes / sizeof(std::uint32_t);
    }
    /// Bytes of scratch that forward_training and backward need at the present thread setting.
    std::size_t training_workspace_size(std::int64_t batch, std::int64_t width) const {
        std::size_t bytes = 0;
        check(qconv_layer_training_workspace_size(layer_.get(), batch, width, &bytes));
        return bytes;
    }

    /// forward, and the state of state_words(batch, width) elements.
    void forward_training(std::span<const float> x, std::int64_t batch, std::int64_t width, std::span<float> y,
                          std::span<std::uint32_t> state, std::span<std::byte> workspace = {}) const {
        const std::int64_t outputs = width_out(width);
        require_size("x", x.size(), batch * in_channels_ * width);
        require_size("y", y.size(), batch * out_channels_ * outputs);
        check(qconv_layer_forward_training(layer_.get(), x.data(), batch, width, y.data(), data_or_null(state),
                                           state.size_bytes(), data_or_null(workspace), workspace.size()));
    }

    /// Gradients from grad_output, shaped as y. Of x and state the one that the layer does not save may be empty.
    void backward(std::span<const float> x, std::span<const std::uint32_t> state, std::span<const float> grad_output,
                  std::int64_t batch, std::int64_t width, const Gradients &gradients,
                  std::span<std::byte> workspace = {}) const {
        const std::int64_t outputs = width_out(width);
        if (!x.empty()) require_size("x", x.size(), batch * in_channels_ * width);
        require_size("grad_output", grad_output.size(), batch * out_channels_ * outputs);
        if (!gradients.input.empty()) require_size("grad_input", gradients.input.size(), batch * in_channels_ * width);
        if (!gradients.weight.empty()) require_size("grad_weight", gradients.weight.size(), weights_);
        if (!gradients.bias.empty()) require_size("grad_bias", gradients.bias.size(), out_channels_);
        check(qconv_layer_backward(layer_.get(), data_or_null(x), data_or_null(state), state.size_bytes(),
                                   grad_output.data(), batch, width, data_or_null(gradients.input),
                                   data_or_null(gradients.weight), data_or_null(gradients.bias),
                                   data_or_null(workspace), workspace.size()));
    }

    /// The kernel that serves this layer in one direction, which must be one that the layer was created for.
    const qconv_kernel &kernel(qconv_direction direction = QCONV_FORWARD) const {
        const qconv_kernel *kernel = qconv_layer_kernel(layer_.get(), direction);
        if (kernel == nullptr) throw Error(QCONV_INVALID_ARGUMENT, "the layer was not created for this direction");
        return *kernel;
    }
    std::size_t packed_bytes() const { return qconv_layer_packed_bytes(layer_.get()); }

    /// For the C ABI; the layer stays the owner.
    qconv_layer *get() const { return layer_.get(); }

private:
    template <typename T>
    static T *data_or_null(std::span<T> values) {
        return values.empty() ? nullptr : values.data();
    }
    void require_weights(std::span<const float> weight, std::span<const float> bias) const {
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
    std::int64_t in_channels_;
    std::int64_t out_channels_;
    std::int64_t weights_ = 0;
};

/// One layer of a network, and what is done to its output: scale * y + shift, channel by channel.
struct NetworkLayer {
    qconv_layer_config config;
    std::span<const float> weight;     ///< as for Layer
    std::span<const float> bias = {};  ///< as for Layer
    std::span<const float> scale = {}; ///< out_channels values, or empty for 1
    std::span<const float> shift = {}; ///< out_channels values, or empty for 0
};

/// scale and shift of a batch norm in evaluation, for a NetworkLayer. weight and bias may be empty, for 1 and 0.
struct FoldedBatchNorm {
    std::vector<float> scale, shift;

    FoldedBatchNorm(std::span<const float> mean, std::span<const float> variance, std::span<const float> weight = {},
                    std::span<const float> bias = {}, double epsilon = 1e-5)
        : scale(mean.size()), shift(mean.size()) {
        const auto fits = [&](std::span<const float> values) { return values.empty() || values.size() == mean.size(); };
        if (variance.size() != mean.size() || !fits(weight) || !fits(bias)) {
            throw Error(QCONV_INVALID_ARGUMENT, "mean, variance, weight and bias of a batch norm differ in size");
        }
        const auto or_null = [](std::span<const float> values) { return values.empty() ? nullptr : values.data(); };
        check(qconv_fold_batch_norm(static_cast<std::int64_t>(mean.size()), mean.data(), variance.data(),
                                    or_null(weight), or_null(bias), epsilon, scale.data(), shift.data()));
    }
};

/// Layers one after another; between them packed signs wherever the next one takes signs (qconv_network in qconv.h).
/// Movable, not copyable. Its const functions may run on several threads at once.
class Network {
public:
    explicit Network(std::span<const NetworkLayer> layers) {
        std::vector<qconv_network_layer> rows;
        for (const NetworkLayer &layer : layers) {
            const qconv_layer_config &c = layer.config;
            check(qconv_layer_config_check(&c));
            require_size("weight", layer.weight, c.out_channels * (c.in_channels / c.groups) * c.kernel_size);
            if (!layer.bias.empty()) require_size("bias", layer.bias, c.out_channels);
            if (!layer.scale.empty()) require_size("scale", layer.scale, c.out_channels);
            if (!layer.shift.empty()) require_size("shift", layer.shift, c.out_channels);
            rows.push_back({c, layer.weight.data(), data_or_null(layer.bias), data_or_null(layer.scale),
                            data_or_null(layer.shift)});
        }
        if (!rows.empty()) in_channels_ = rows.front().config.in_channels;
        if (!rows.empty()) out_channels_ = rows.back().config.out_channels;
        qconv_network *network = nullptr;
        check(qconv_network_create(rows.data(), rows.size(), &network));
        network_.reset(network);
    }

    /// Output positions for an input of `width` positions.
    std::int64_t width_out(std::int64_t width) const {
        std::int64_t result = 0;
        check(qconv_network_width_out(network_.get(), width, &result));
        return result;
    }
    /// Bytes of scratch that forward needs at the present thread setting.
    std::size_t workspace_size(std::int64_t batch, std::int64_t width) const {
        std::size_t bytes = 0;
        check(qconv_network_workspace_size(network_.get(), batch, width, &bytes));
        return bytes;
    }
    /// As Layer::forward.
    void forward(std::span<const float> x, std::int64_t batch, std::int64_t width, std::span<float> y,
                 std::span<std::byte> workspace = {}) const {
        require_size("x", x, batch * in_channels_ * width);
        require_size("y", y, batch * out_channels_ * width_out(width));
        check(qconv_network_forward(network_.get(), x.data(), batch, width, y.data(),
                                    workspace.empty() ? nullptr : workspace.data(), workspace.size()));
    }
    std::vector<float> forward(std::span<const float> x, std::int64_t batch, std::int64_t width) const {
        require_size("x", x, batch * in_channels_ * width);
        std::vector<float> y(static_cast<std::size_t>(batch * out_channels_ * width_out(width)));
        forward(x, batch, width, y);
        return y;
    }
    /// Whether packed signs enter this layer; else floats do.
    bool packed(std::size_t layer) const { return qconv_network_packed(network_.get(), layer) != 0; }

    /// For the C ABI; the network stays the owner.
    qconv_network *get() const { return network_.get(); }

private:
    static const float *data_or_null(std::span<const float> values) { return values.empty() ? nullptr : values.data(); }
    static void require_size(const char *name, std::span<const float> values, std::int64_t expected) {
        if (expected >= 0 && values.size() == static_cast<std::size_t>(expected)) return;
        throw Error(QCONV_INVALID_ARGUMENT, std::string(name) + " has " + std::to_string(values.size()) +
                                                " values; the shape needs " + std::to_string(expected));
    }

    struct Destroy {
        void operator()(qconv_network *network) const noexcept { qconv_network_destroy(network); }
    };

    std::unique_ptr<qconv_network, Destroy> network_;
    std::int64_t in_channels_ = 0;
    std::int64_t out_channels_ = 0;
};

} // namespace qconv

#endif // C++20 and exceptions
