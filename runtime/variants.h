// The kernels that serve one direction of a layer, chosen for the width of each call, and its weights as they take
// them.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <span>

#include "cpu_features.h"
#include "fork.h"
#include "pack.h"
#include "pack_grad_input.h"
#include "pack_rows.h"
#include "qconv/qconv.h"
#include "quantize.h"

namespace qconv {

/// Calls whose results have about as many positions, for which one kernel is chosen: each number up to 64, multiples of
/// 16 up to 1,024 and four numbers an octave beyond, to which others are rounded up.
class WidthClass {
public:
    static constexpr std::size_t count = 208;

    /// 1 <= positions <= 2^31.
    explicit WidthClass(std::int64_t positions);

    std::size_t index() const { return index_; }
    /// The most positions of the class.
    std::int64_t positions() const { return positions_; }

private:
    std::size_t index_;
    std::int64_t positions_;
};

/// In place of packed weights, for kernels that read none.
struct NoWeights {
    static constexpr std::size_t bytes() { return 0; }
};

/// What a layer gets: weight and bias as pack_forward takes them, and the weight's quantizer.
struct LayerWeights {
    const TensorQuantizer &quantizer;
    std::span<const float> weight, bias;
};

/// A kernel, and the layer's weights packed for it.
template <typename Packed>
struct Variant {
    explicit Variant(const qconv_kernel &chosen) : kernel(&chosen) {}

    const qconv_kernel *kernel;
    Packed packed;
    bool current = false;           // `packed` has the present weights
    std::atomic<bool> ready{false}; // so it has, and a call has asked for them since they were set
};

/// Packed: PackedForward, PackedGradInput or NoWeights.
template <typename Packed>
class Variants {
public:
    /// Chooses for the configuration's width. `config` must live as long, but for its strings. Where it names a kernel,
    /// and on devices, that choice is for all widths.
    Variants(const qconv_layer_config &config, qconv_op op, DeviceKind device);

    /// Packs for the kernels that have served calls since the last weights came, or else for the first: others follow
    /// when a call needs them. No other call meanwhile. Allocates only the first time.
    void set_weights(const LayerWeights &weights);

    const Variant<Packed> &first() const { return variants_.front(); }
    /// The kernel that serves calls of this width.
    const qconv_kernel &kernel(std::int64_t width) const { return *choice(width).kernel; }
    /// The same with its weights, packed now where no call has needed them yet. From several threads at once.
    const Variant<Packed> &at(std::int64_t width) const {
        Variant<Packed> &variant = choice(width);
        if (!variant.ready.load(std::memory_order_acquire)) prepare(variant);
        return variant;
    }
    /// Of all packed weights.
    std::size_t bytes() const;

private:
    Variant<Packed> &choice(std::int64_t width) const {
        const WidthClass width_class(positions(width));
        Variant<Packed> *chosen = chosen_[width_class.index()].load(std::memory_order_acquire);
        return chosen != nullptr ? *chosen : choose(width_class);
    }
    std::int64_t positions(std::int64_t width) const;
    std::int64_t input_width(const WidthClass &width_class) const;
    Variant<Packed> &choose(const WidthClass &width_class) const;
    void prepare(Variant<Packed> &variant) const;

    const qconv_layer_config &config_;
    qconv_op op_;
    mutable std::array<std::atomic<Variant<Packed> *>, WidthClass::count> chosen_{};
    // Of what follows; and chosen_ is written under it. The lock is one for all layers: it is for first calls, and a
    // fork can hold it.
    mutable std::list<Variant<Packed>> variants_;
    mutable PackScratch scratch_;
};

/// Of the lock of first calls, which takes the registry's.
extern const AcrossFork variants_across_fork;

} // namespace qconv
