#include "variants.h"

#include <algorithm>
#include <bit>
#include <mutex>
#include <new>
#include <string>

#include "config.h"
#include "memory.h"
#include "qconv/layout.h"
#include "registry.h"
#include "select.h"
#include "unpack.h"

namespace qconv {
namespace {

std::mutex first_calls;

void pack(PackedForward &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
          const LayerWeights &weights, PackScratch &scratch) {
    pack_forward(packed, kernel, config, weights.quantizer, weights.weight, weights.bias, scratch);
}

void pack(PackedGradInput &packed, const qconv_kernel &kernel, const qconv_layer_config &config,
          const LayerWeights &weights, PackScratch &scratch) {
    pack_grad_input(packed, kernel, config, weights.quantizer, weights.weight, scratch);
}

void pack(NoWeights & /*packed*/, const qconv_kernel & /*kernel*/, const qconv_layer_config & /*config*/,
          const LayerWeights & /*weights*/, PackScratch & /*scratch*/) {}

// The float weights are not kept: what one kernel takes is made from what another does.
template <typename Packed>
void repack(Variant<Packed> &variant, const Variant<Packed> &from, const qconv_layer_config &config,
            PackScratch &scratch) {
    const auto count = static_cast<std::size_t>(config.out_channels * window_elements(config));
    const Memory memory(count * sizeof(float));
    const std::span<float> values(memory.as<float>(), count);
    unpack(from.packed, *from.kernel, config, values);
    const TensorQuantizer kept(weight_representation(config));
    pack(variant.packed, *variant.kernel, config, {kept, values, unpacked_bias(from.packed, config)}, scratch);
}

void repack(Variant<NoWeights> & /*variant*/, const Variant<NoWeights> & /*from*/,
            const qconv_layer_config & /*config*/, PackScratch & /*scratch*/) {}

} // namespace

const AcrossFork variants_across_fork{
    [] { first_calls.lock(); },
    [] { first_calls.unlock(); },
    [] { new (&first_calls) std::mutex; },
};

WidthClass::WidthClass(std::int64_t positions) {
    constexpr std::int64_t each = 64, step = 16, stepwise = 1024;
    if (positions <= each) {
        index_ = static_cast<std::size_t>(positions - 1);
        positions_ = positions;
    } else if (positions <= stepwise) {
        const std::int64_t steps = ceil_div(positions, step);
        index_ = static_cast<std::size_t>(each + steps - each / step - 1);
        positions_ = steps * step;
    } else {
        const auto octave = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(positions - 1))) - 1;
        const std::int64_t quarters = (positions - 1) >> (octave - 2); // of the octave's start: 4 to 7
        constexpr std::int64_t first = each + (stepwise - each) / step;
        index_ = static_cast<std::size_t>(first + (octave - 10) * 4 + quarters - 4);
        positions_ = (quarters + 1) << (octave - 2);
    }
}

template <typename Packed>
Variants<Packed>::Variants(const qconv_layer_config &config, qconv_op op, DeviceKind device)
    : config_(config), op_(op) {
    qconv_layer_config of_class = config;
    const bool once = device != DeviceKind::Cpu || names_kernel(config, op);
    const std::int64_t expected = op == QCONV_OP_GRAD_INPUT
                                      ? ceil_div(std::min(config.width, max_elements), config.stride)
                                      : outputs_expected(config);
    if (!once && expected > 0) of_class.width = input_width(WidthClass(expected));
    variants_.emplace_back(select_kernel(of_class, op, cpu_features(), device));
    if (!once) return;
    for (auto &chosen : chosen_)
        chosen.store(&variants_.front(), std::memory_order_relaxed);
}

template <typename Packed>
void Variants<Packed>::set_weights(const LayerWeights &weights) {
    const auto ready = [](const Variant<Packed> &v) { return v.ready.load(std::memory_order_relaxed); };
    const bool none = std::none_of(variants_.begin(), variants_.end(), ready);
    for (Variant<Packed> &variant : variants_)
        variant.current = false;
    for (Variant<Packed> &variant : variants_) {
        if (none ? &variant == &variants_.front() : ready(variant)) {
            pack(variant.packed, *variant.kernel, config_, weights, scratch_);
            variant.current = true;
        }
        variant.ready.store(false, std::memory_order_relaxed);
    }
}

template <typename Packed>
std::size_t Variants<Packed>::bytes() const {
    const std::lock_guard lock(first_calls);
    std::size_t bytes = 0;
    for (const Variant<Packed> &variant : variants_)
        bytes += variant.packed.bytes();
    return bytes;
}

template <typename Packed>
std::int64_t Variants<Packed>::positions(std::int64_t width) const {
    return op_ == QCONV_OP_GRAD_INPUT ? ceil_div(width, config_.stride) : width_out(config_, width);
}

// The widest input whose result has the most positions of the class.
template <typename Packed>
std::int64_t Variants<Packed>::input_width(const WidthClass &width_class) const {
    const std::int64_t width = width_class.positions() * config_.stride;
    return op_ == QCONV_OP_GRAD_INPUT ? width : width + tap_span(config_) - config_.pad_left - config_.pad_right;
}

template <typename Packed>
Variant<Packed> &Variants<Packed>::choose(const WidthClass &width_class) const {
    const std::lock_guard lock(first_calls);
    // All are of one target, the best that serves the layer or the one it names.
    const std::string target = std::string("@") + variants_.front().kernel->target;
    qconv_layer_config config = config_;
    config.kernel = config.grad_input_kernel = config.grad_weight_kernel = target.c_str();
    config.width = input_width(width_class);
    const qconv_kernel &kernel = select_kernel(config, op_, cpu_features());
    auto variant = std::find_if(variants_.begin(), variants_.end(),
                                [&kernel](const Variant<Packed> &v) { return v.kernel == &kernel; });
    if (variant == variants_.end()) variant = variants_.emplace(variant, kernel);
    chosen_[width_class.index()].store(&*variant, std::memory_order_release);
    return *variant;
}

template <typename Packed>
void Variants<Packed>::prepare(Variant<Packed> &variant) const {
    const std::lock_guard lock(first_calls);
    if (!variant.current) {
        const auto from =
            std::find_if(variants_.begin(), variants_.end(), [](const Variant<Packed> &v) { return v.current; });
        repack(variant, *from, config_, scratch_);
        variant.current = true;
    }
    variant.ready.store(true, std::memory_order_release);
}

template class Variants<PackedForward>;
template class Variants<PackedGradInput>;
template class Variants<NoWeights>;

} // namespace qconv
