// A network of layers. Between two of them runs a tensor of packed signs where the next layer takes one bit an element,
// else one of floats.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "forward_bits.h"
#include "layer.h"
#include "memory.h"
#include "plan.h"
#include "pool.h"
#include "qconv/qconv.h"
#include "threshold.h"
#include "workspace.h"

namespace qconv {

/// What a call of one layer is for. The number of threads is read once a call: it may change meanwhile.
struct CallSize {
    std::int64_t batch, width;
    int threads;
};

/// One layer of a network: from floats, by a qconv_layer, or from packed signs; to either.
class NetworkStage {
public:
    /// The layer's description, checked. from_bits: that packed signs enter it. next: the layer after, where packed
    /// signs leave it, else NULL.
    NetworkStage(const qconv_network_layer &layer, bool from_bits, const qconv_layer_config *next);

    const qconv_layer_config &config() const { return config_; }
    bool from_bits() const { return from_bits_; }

    /// Bytes of floats that become signs in a step of their own, and of scratch.
    std::size_t float_bytes(const CallSize &size) const;
    std::size_t scratch_bytes(const CallSize &size) const;

    /// x, y: float or packed signs. floats, scratch: of at least those bytes.
    void forward(const void *x, const CallSize &size, void *y, float *floats, Workspace scratch) const;

private:
    bool packs_in_one_step(std::int64_t width) const;
    Plan plan(const qconv_kernel &kernel, const CallSize &size) const;
    void scale_and_shift(float *values, std::int64_t batch, std::int64_t width) const;
    void to_float(const void *x, const CallSize &size, float *y, Workspace scratch) const;

    qconv_layer_config config_;
    bool from_bits_;
    LayerPointer layer_; // from floats
    // From packed signs.
    const qconv_kernel *bits_to_float_ = nullptr, *bits_to_bits_ = nullptr;
    PackedForward packed_;
    PackScratch pack_scratch_;
    Limits limits_;
    // To packed signs in a step of its own.
    const qconv_kernel *to_bits_ = nullptr;
    ToBitsRule rule_;
    // To floats: scale, then shift; empty for 1 and 0.
    Memory affine_;
};

/// Bytes of the packed signs of a tensor.
std::size_t sign_bytes(std::int64_t batch, std::int64_t channels, std::int64_t width);

} // namespace qconv

/// The C ABI's opaque type.
struct qconv_network {
public:
    explicit qconv_network(std::span<const qconv_network_layer> layers);

    std::int64_t width_out(std::int64_t width) const;
    std::size_t workspace_size(std::int64_t batch, std::int64_t width) const;
    void forward(const float *x, std::int64_t batch, std::int64_t width, float *y, qconv::Workspace workspace) const;
    /// Whether packed signs enter this layer.
    bool packed(std::size_t layer) const { return layer < layers_.size() && layers_[layer].from_bits(); }

private:
    struct Layout;
    /// Of a call that runs all samples through all layers together, and of one that runs some at a time.
    Layout layout_of(qconv::CallSize size) const;
    Layout layout(const qconv::CallSize &size) const;
    void run(const Layout &layout, const float *x, qconv::CallSize size, float *y, std::byte *memory) const;
    /// Throws when a kernel could not index a tensor of one sample; else the elements of the largest.
    std::int64_t largest_tensor(std::int64_t width) const;

    std::vector<qconv::NetworkStage> layers_;
    bool whole_batch_ = false; // an input quantizer needs to see all of its tensor
    // Where packed signs enter the first layer.
    const qconv_kernel *to_bits_ = nullptr;
    qconv::ToBitsRule rule_;
    qconv::WorkspacePool::User pool_user_;
};
