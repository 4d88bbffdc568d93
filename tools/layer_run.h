// One layer with its tensors and buffers: what run, verify and bench do with it in every direction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::tools {

/// Throws an Error with qconv's words after `what` unless the status is QCONV_OK.
void check(qconv_status status, const std::string &what);

/// The tensors that a layer is given, in PyTorch's shapes.
struct LayerData {
    int64_t batch = 0, width = 0;
    std::vector<float> x, weight;
    std::vector<float> bias;        // empty: none
    std::vector<float> grad_output; // read by backward only

    const float *bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

/// Which gradients one backward call computes.
struct Gradients {
    bool input = false, weight = false, bias = false;
};

class LayerRun {
public:
    /// Creates the layer and what its directions need: outputs, saved state, a workspace of the size asked for.
    /// `data` must outlive this. `what` begins the messages of the errors that are thrown, here and later.
    LayerRun(const qconv_layer_config &config, const LayerData &data, std::string what);

    void forward();
    /// Also writes the state that backward() reads, if the layer saves one.
    void forward_training();
    void backward(Gradients wanted);
    /// Packs the weights anew.
    void set_weights();

    /// What backward() reads, in place of a forward pass; of state() 's size.
    void set_state(std::vector<uint32_t> state) { state_ = std::move(state); }

    /// NaN in every output and ones in the state, so that what is never written shows.
    void spoil();
    /// To be called when the number of threads has changed.
    void resize_workspace();
    /// "" unless something was written behind the workspace.
    std::string workspace_problem() const;

    const qconv_layer_config &config() const { return config_; }
    const LayerData &data() const { return data_; }
    int64_t width_out() const { return width_out_; }
    /// Multiply-adds of one direction; all have as many.
    double macs() const;
    /// For an op that is a direction of the layer.
    const qconv_kernel &kernel(qconv_op op) const;
    qconv_saved saved() const { return qconv_layer_saved(layer_.get()); }
    std::size_t state_bytes() const { return state_.size() * sizeof(uint32_t); }
    std::size_t packed_bytes() const { return qconv_layer_packed_bytes(layer_.get()); }

    const std::vector<float> &y() const { return y_; }
    const std::vector<uint32_t> &state() const { return state_; }
    const std::vector<float> &grad_input() const { return grad_input_; }
    const std::vector<float> &grad_weight() const { return grad_weight_; }
    const std::vector<float> &grad_bias() const { return grad_bias_; }

private:
    struct Destroy {
        void operator()(qconv_layer *layer) const { qconv_layer_destroy(layer); }
    };
    struct Free {
        void operator()(std::byte *memory) const;
    };

    bool trains() const { return (config_.directions & ~uint32_t{QCONV_FORWARD}) != 0; }

    qconv_layer_config config_;
    const LayerData &data_;
    std::string what_;
    std::unique_ptr<qconv_layer, Destroy> layer_;
    int64_t width_out_ = 0;
    std::vector<float> y_, grad_input_, grad_weight_, grad_bias_;
    std::vector<uint32_t> state_;
    std::unique_ptr<std::byte, Free> workspace_;
    std::size_t workspace_bytes_ = 0;
};

} // namespace qconv::tools
