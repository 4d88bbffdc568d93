// A layer: a configuration, the kernel chosen for it, its packed weights, and workspaces to reuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "config.h"
#include "memory.h"
#include "pack.h"
#include "plan.h"
#include "qconv/qconv.h"

namespace qconv {

/// Workspaces of calls that bring none: one for each call that runs at the same time, kept between calls.
class WorkspacePool {
public:
    /// At least `bytes`. Allocates only when no idle one is large enough.
    Memory take(std::size_t bytes);
    void give_back(Memory memory) noexcept;

private:
    std::mutex mutex_;
    std::vector<Memory> idle_;
    std::size_t taken_ = 0;
};

} // namespace qconv

/// The C ABI's opaque type.
struct qconv_layer {
public:
    qconv_layer(const qconv_layer_config &config, const float *weight, const float *bias);

    std::int64_t width_out(std::int64_t width) const { return qconv::width_out(config_, width); }
    std::size_t workspace_size(std::int64_t batch, std::int64_t width) const;
    void forward(const float *x, std::int64_t batch, std::int64_t width, float *y, void *workspace,
                 std::size_t workspace_bytes) const;

    /// NULL for a direction that the layer was not created for.
    const qconv_kernel *kernel(qconv_direction direction) const {
        return direction == QCONV_FORWARD ? kernel_ : nullptr;
    }
    std::size_t packed_bytes() const { return packed_.bytes(); }

private:
    qconv::Plan plan(std::int64_t batch, std::int64_t width) const;

    qconv_layer_config config_;
    const qconv_kernel *kernel_;
    qconv::MixedQuantizer input_;
    qconv::PackedLayer packed_;
    mutable qconv::WorkspacePool pool_;
};

namespace qconv {

struct DestroyLayer {
    void operator()(qconv_layer *layer) const noexcept;
};
using LayerPointer = std::unique_ptr<qconv_layer, DestroyLayer>;

/// Checks the configuration; bias may be NULL, and must be for all but conv1d.
LayerPointer create_layer(const qconv_layer_config &config, const float *weight, const float *bias);

} // namespace qconv
