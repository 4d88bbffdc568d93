// Results of a layer beside the plain loops of tests/support/reference.h, sampled where all of them would take too
// long.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/reference.h"
#include "tools/layer_run.h"

namespace qconv::tools {

struct Verdict {
    std::string problem; // "" if every value compared is within its tolerance; else the worst one
    int64_t checked = 0, total = 0;
    double max_error = 0, max_tolerance = 0;
};

class Oracle {
public:
    /// For layers of this configuration, whatever their kernels, on `data`, which must outlive this. `macs`: what the
    /// loops may do for one direction; beyond it they take a sample.
    Oracle(const qconv_layer_config &config, const LayerData &data, double macs, uint64_t seed)
        : config_(config), data_(data), macs_(macs), seed_(seed) {}

    /// What the layer's last forward() or backward() wrote; with grad_weight also grad_bias, where there is one.
    /// Forward samples columns of y: all that reach over an end if they are few, else the outermost and innermost of
    /// them, and random ones. Gradients: elements near both ends of the rows, and random ones.
    Verdict check(const LayerRun &run, qconv_op op);
    /// Every bit of what its last forward_training() saved; "" if it saves no state or all are as they must be.
    std::string check_state(const LayerRun &run) const;

private:
    struct Sample {
        std::vector<int64_t> places; // columns of y, elements of a gradient; empty: all
        reference::Expected expected;
    };

    const Sample &sample(qconv_op op, qconv_path path);
    Sample sample_forward(qconv_path path) const;
    Sample sample_gradient(qconv_op op) const;
    std::vector<int64_t> columns() const;
    int64_t affordable(double macs_of_one, int64_t least) const;

    qconv_layer_config config_;
    const LayerData &data_;
    double macs_;
    uint64_t seed_;
    std::map<std::pair<qconv_op, qconv_path>, Sample> samples_;
};

} // namespace qconv::tools
