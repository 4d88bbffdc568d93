// A layer with the data of a training step and its expected gradients, and the guarded run of kernels on it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "support/cases.h"
#include "support/guard.h"
#include "support/layer_case.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace qconv::test {

struct TrainingData {
    std::vector<float> x, weight, bias, grad_output; // bias may be empty
};

struct Gradients {
    std::vector<float> input, weight, bias;
};

/// pairs() whose backward differs, and pairs of every surrogate derivative on either side, alone and mixed.
const std::vector<Pair> &training_pairs();

/// What grad_output, and x and weights that nothing quantizes, are made of.
enum class Numbers {
    Real,
    Integer, // small ones: sums with binary or integer operands are exact, and compared with ==
};

class TrainingCase {
public:
    /// Data from the seed and `stream`. x has values at the threshold and beside it, and NaN where the quantizer and
    /// its derivative define it. At most `products` products go into the oracle of each gradient, which then samples.
    TrainingCase(const Shape &shape, const Pair &pair, float threshold, float pad_value, Numbers numbers,
                 uint64_t stream, int64_t products = 1'000'000);

    const Shape &shape() const { return shape_; }
    const qconv_layer_config &config() const { return config_; }
    const TrainingData &data() const { return data_; }
    void set_directions(uint32_t directions) { config_.directions = directions; }

    /// A layer for training with these kernels, or with the best ones for null. Null, with the library's message in
    /// *error, on failure.
    LayerPtr create(const qconv_kernel *grad_input, const qconv_kernel *grad_weight, std::string *error) const;
    /// A layer for training whose kernels are the best of one target. Null on failure.
    LayerPtr create_on(const std::string &target) const;

    /// "" when all gradients are right, else a description of the first difference. grad_bias is checked for conv1d.
    std::string check(const Gradients &gradients);

    /// Shape, quantizers, threshold, padding and data, for failure messages.
    std::string describe() const;

private:
    LayerPtr create(const std::string &forward, const std::string &grad_input, const std::string &grad_weight,
                    std::string *error) const;

    Shape shape_;
    std::string pair_name_;
    Numbers numbers_;
    int64_t products_;
    uint64_t stream_;
    qconv_layer_config config_{};
    TrainingData data_;
    std::vector<int64_t> input_elements_, weight_elements_; // those the oracle computes; all of them when empty
    std::optional<reference::Expected> input_, weight_, bias_;
};

/// How one training step is run.
struct StepOptions {
    GuardedArena::Edge edge = GuardedArena::Edge::End;
    bool own_workspace = false;                    // the layer's own, else one of exactly the size it asked for
    bool input = true, weight = true, bias = true; // gradients to ask for; the others' pointers are NULL
};

/// Memory for every tensor of a training step, each with an inaccessible page on one side. What the layer does not save
/// is not passed to backward: x is inaccessible then.
class GuardedTraining {
public:
    GuardedTraining();
    /// forward_training and backward. Returns "" or what went wrong: a status, a wrong state, a write outside a tensor
    /// or the workspace, gradients never written. On success the results are in y() and gradients().
    std::string step(const qconv_layer *layer, const qconv_layer_config &config, const TrainingData &data,
                     int64_t batch, int64_t width, const StepOptions &options);
    const std::vector<float> &y() const { return y_; }
    const Gradients &gradients() const { return gradients_; }

private:
    std::string forward(const qconv_layer *layer, const qconv_layer_config &config, const TrainingData &data,
                        int64_t batch, int64_t width, const StepOptions &options);
    std::string backward(const qconv_layer *layer, const qconv_layer_config &config, const TrainingData &data,
                         int64_t batch, int64_t width, const StepOptions &options);

    GuardedArena x_arena_, state_arena_, y_arena_, workspace_arena_, grad_arenas_[4];
    uint32_t *state_ = nullptr;
    size_t state_bytes_ = 0;
    std::vector<float> y_;
    Gradients gradients_;
};

} // namespace qconv::test
