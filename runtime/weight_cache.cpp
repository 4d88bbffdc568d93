#include "weight_cache.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "config.h"
#include "errors.h"

namespace qconv {
namespace {

// One layer for inference, one for each set of gradients; a scheduled quantizer makes new ones as it moves on, and the
// oldest go.
constexpr std::size_t layers_per_address = 4;

// What a call may spend on looking. Weights up to whole_bytes are read whole; larger ones in at least least_parts, so
// that each is seen once in as many calls, and in parts of at most part_bytes. A call of all_columns outputs per
// channel takes so long that reading every part is little beside it.
constexpr std::size_t whole_bytes = 16 << 10;
constexpr std::size_t part_bytes = 128 << 10;
constexpr std::size_t least_parts = 8;
constexpr double all_columns = 8192;

std::uint32_t bits(float value) {
    return std::bit_cast<std::uint32_t>(value);
}

bool same(const qconv_quantizer &a, const qconv_quantizer &b) {
    return a.kind == b.kind && a.bits == b.bits && bits(a.alpha) == bits(b.alpha) && bits(a.beta) == bits(b.beta) &&
           bits(a.scale) == bits(b.scale) && a.training == b.training;
}

// All but the names of kernels, which such layers have none of, and the width.
bool same(const qconv_layer_config &a, const qconv_layer_config &b) {
    return a.kind == b.kind && a.in_channels == b.in_channels && a.out_channels == b.out_channels &&
           a.kernel_size == b.kernel_size && a.stride == b.stride && a.pad_left == b.pad_left &&
           a.pad_right == b.pad_right && a.dilation == b.dilation && a.groups == b.groups &&
           a.directions == b.directions && bits(a.pad_value) == bits(b.pad_value) &&
           same(a.input_quantization, b.input_quantization) && same(a.input_next, b.input_next) &&
           bits(a.input_mix) == bits(b.input_mix) && same(a.weight_quantization, b.weight_quantization) &&
           same(a.weight_next, b.weight_next) && bits(a.weight_mix) == bits(b.weight_mix) &&
           bits(a.gradient_cancellation_threshold) == bits(b.gradient_cancellation_threshold);
}

std::size_t out_channels(const CurrentWeights &weights) {
    return static_cast<std::size_t>(weights.config.out_channels);
}

RowsView rows_of(const CurrentWeights &weights) {
    return {weights.weight, out_channels(weights), static_cast<std::size_t>(window_elements(weights.config))};
}

std::uint64_t print_of_bias(const CurrentWeights &weights) {
    return weights.bias == nullptr ? 0 : fingerprint(weights.bias, out_channels(weights));
}

} // namespace

WeightPrint::WeightPrint(const CurrentWeights &weights) : bias_(print_of_bias(weights)) {
    const RowsView view = rows_of(weights);
    values_ = view.rows * view.row_values;
    const std::size_t bytes = values_ * sizeof(float);
    const std::size_t parts = bytes <= whole_bytes ? 1 : std::max(least_parts, (bytes + part_bytes - 1) / part_bytes);
    part_values_ = (values_ + parts - 1) / parts;
    for (std::size_t index = 0; index * part_values_ < values_; ++index)
        parts_.push_back(part(weights, index));
    if (parts_.size() > 1) sample_ = fingerprint_sample(view);
}

std::uint64_t WeightPrint::part(const CurrentWeights &weights, std::size_t index) const {
    const std::size_t begin = index * part_values_;
    return fingerprint(weights.weight + begin, std::min(part_values_, values_ - begin));
}

bool WeightPrint::is_of(const CurrentWeights &weights) const {
    if (!weights.backward && print_of_bias(weights) != bias_) return false;
    for (std::size_t index = 0; index < parts_.size(); ++index)
        if (part(weights, index) != parts_[index]) return false;
    return true;
}

bool WeightPrint::seems_of(const CurrentWeights &weights) const {
    const double columns = static_cast<double>(weights.batch) * static_cast<double>(weights.width) /
                           static_cast<double>(weights.config.stride);
    const double share = std::clamp(columns / all_columns, 0.0, 1.0);
    const auto affordable = static_cast<std::size_t>(static_cast<double>(parts_.size()) * share);
    if (affordable == parts_.size() || parts_.size() == 1) return is_of(weights);
    if (print_of_bias(weights) != bias_ || fingerprint_sample(rows_of(weights)) != sample_) return false;
    const std::size_t looks = std::max<std::size_t>(affordable, 1), from = turn_.fetch_add(looks);
    for (std::size_t look = 0; look < looks; ++look) {
        const std::size_t index = (from + look) % parts_.size();
        if (part(weights, index) != parts_[index]) return false;
    }
    return true;
}

struct WeightCache::Packed {
    qconv_layer_config config;
    std::shared_ptr<Device> device;
    const void *address;
    LayerPointer layer;
    std::unique_ptr<const WeightPrint> print;
    std::atomic<std::uint64_t> version;
    // The cache's mutex guards these:
    int users;   // calls that are inside it now
    bool listed; // may be found
};

WeightCache &WeightCache::instance() {
    static WeightCache *cache = [] {
        static auto *made = new WeightCache;
        // A child of fork must not find the mutex held by a thread that it has not got.
        pthread_atfork([] { made->mutex_.lock(); }, [] { made->mutex_.unlock(); }, [] { made->mutex_.unlock(); });
        return made;
    }();
    return *cache;
}

WeightCache::Packed *WeightCache::find(const CurrentWeights &weights) {
    const std::lock_guard lock(mutex_);
    const auto found = by_address_.find(weights.address);
    if (found == by_address_.end()) return nullptr;
    for (Packed *packed : found->second) {
        if (packed->device != weights.device || !same(packed->config, weights.config)) continue;
        ++packed->users;
        return packed;
    }
    return nullptr;
}

bool WeightCache::current(Packed &packed, const CurrentWeights &weights) const {
    const bool same_version = packed.version == weights.version;
    if (weights.weight == nullptr) return same_version;
    const qconv_weight_check check = this->check();
    // Training is always exact: what an optimizer does next depends on it.
    if (same_version && weights.config.directions == QCONV_FORWARD && check != QCONV_CHECK_EXACT) {
        return check == QCONV_CHECK_NOTHING || packed.print->seems_of(weights);
    }
    if (!packed.print->is_of(weights)) return false;
    packed.version = weights.version;
    return true;
}

WeightCache::Owner WeightCache::unlist(Packed &packed) {
    if (packed.listed) {
        packed.listed = false;
        const auto found = by_address_.find(packed.address);
        std::erase(found->second, &packed);
        if (found->second.empty()) by_address_.erase(found);
    }
    return packed.users == 0 ? owned_.extract(packed.layer.get()) : Owner();
}

WeightCache::Owner WeightCache::withdraw(Packed &packed) {
    const std::lock_guard lock(mutex_);
    --packed.users;
    return unlist(packed);
}

qconv_layer *WeightCache::acquire(const CurrentWeights &weights, bool &first) {
    first = false;
    Owner owner; // declared before any lock, since what it replaced may go with it
    while (Packed *found = find(weights)) {
        if (current(*found, weights)) return found->layer.get();
        if (weights.weight == nullptr) {
            release(found->layer.get());
            return nullptr;
        }
        owner = withdraw(*found);
    }
    if (weights.weight == nullptr) return nullptr;
    if (weights.config.kernel != nullptr || weights.config.grad_input_kernel != nullptr ||
        weights.config.grad_weight_kernel != nullptr) {
        throw Error(QCONV_INVALID_ARGUMENT, "kernels cannot be named here; they must be NULL, for the best");
    }

    // Before packing: a change that comes between the two is found by the next call.
    auto print = std::make_unique<const WeightPrint>(weights);
    Owned made;
    if (owner) {
        owner.mapped()->layer->set_weights(weights.weight, weights.bias);
    } else {
        qconv_layer_config config = weights.config;
        config.width = weights.width;
        LayerPointer layer = create_layer(config, weights.weight, weights.bias, weights.device);
        auto packed = std::unique_ptr<Packed>(new Packed{.config = weights.config,
                                                         .device = weights.device,
                                                         .address = weights.address,
                                                         .layer = std::move(layer),
                                                         .print = nullptr,
                                                         .version = 0,
                                                         .users = 0,
                                                         .listed = false});
        const qconv_layer *key = packed->layer.get();
        made.emplace(key, std::move(packed));
        owner = made.extract(key);
    }
    Packed &packed = *owner.mapped();
    packed.print = std::move(print);
    packed.version = weights.version;

    Owner oldest;
    const std::lock_guard lock(mutex_);
    std::vector<Packed *> &list = by_address_[weights.address];
    list.reserve(layers_per_address + 1); // all that can fail comes before the rest
    owned_.insert(std::move(owner));
    first = list.empty();
    list.push_back(&packed);
    packed.users = 1;
    packed.listed = true;
    if (list.size() > layers_per_address) oldest = unlist(*list.front());
    return packed.layer.get();
}

void WeightCache::release(const qconv_layer *layer) {
    Owner gone;
    const std::lock_guard lock(mutex_);
    const auto found = owned_.find(layer);
    if (found == owned_.end()) return;
    Packed &packed = *found->second;
    if (--packed.users == 0 && !packed.listed) gone = owned_.extract(found);
}

void WeightCache::forget(const void *address) {
    std::array<Owner, layers_per_address> gone;
    const std::lock_guard lock(mutex_);
    for (Owner &owner : gone) {
        const auto found = by_address_.find(address);
        if (found != by_address_.end() && !found->second.empty()) owner = unlist(*found->second.front());
    }
}

std::size_t WeightCache::count() {
    const std::lock_guard lock(mutex_);
    return by_address_.size();
}

} // namespace qconv
