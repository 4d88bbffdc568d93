// A layer with its data and expected result, and the guarded run of one kernel on it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "support/cases.h"
#include "support/guard.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace qconv::test {

struct DestroyLayer {
    void operator()(qconv_layer *layer) const { qconv_layer_destroy(layer); }
};
using LayerPtr = std::unique_ptr<qconv_layer, DestroyLayer>;

/// Names the kernel and its target in config.kernel. The text lives as long as `name`.
void force_kernel(qconv_layer_config &config, const qconv_kernel &kernel, std::string &name);

class LayerCase {
public:
    /// Data from the seed and `stream`. At most `products` products go into the oracle: of larger results it checks
    /// the first, the last and some random columns.
    LayerCase(const Shape &shape, const Pair &pair, float pad_value, Data data, uint64_t stream,
              int64_t products = 4'000'000);

    const Shape &shape() const { return shape_; }
    const qconv_layer_config &config() const { return config_; }
    int64_t width_out() const { return width_out_; }
    int64_t y_size() const { return shape_.batch * shape_.out * width_out_; }
    const std::vector<float> &x() const { return x_; }
    const std::vector<float> &weight() const { return weight_; }
    const float *bias() const { return bias_.empty() ? nullptr : bias_.data(); }
    void set_threshold(float threshold) { config_.gradient_cancellation_threshold = threshold; }

    /// A layer with this kernel, or with the best one for null. Null, with the library's message in *error, on failure.
    LayerPtr create(const qconv_kernel *kernel, std::string *error) const;

    /// "" when y is right for that path, else a description of the first difference.
    std::string check(qconv_path path, const float *y);

    /// Shape, quantizers, padding and data, for failure messages.
    std::string describe() const;

private:
    Shape shape_;
    std::string pair_name_;
    Data data_;
    qconv_layer_config config_{};
    int64_t width_out_ = 0;
    std::vector<float> x_, weight_, bias_;
    std::vector<int64_t> positions_;               // columns the oracle computes; all of them when empty
    std::map<bool, reference::Expected> expected_; // by whether the path is packed
};

/// Memory for x, y and the workspace, each with an inaccessible page on one side, for the runs of one thread.
class GuardedRun {
public:
    GuardedRun();
    /// One forward call. Returns "" or what went wrong: a status, a write outside y or the workspace. On success the
    /// result is at y(). own_workspace: with the layer's own workspace, else with one of exactly the size it asked for.
    std::string forward(const qconv_layer *layer, const LayerCase &c, GuardedArena::Edge edge, bool own_workspace);
    const float *y() const { return y_; }

private:
    GuardedArena x_arena_, y_arena_, workspace_arena_;
    float *y_ = nullptr;
};

} // namespace qconv::test
