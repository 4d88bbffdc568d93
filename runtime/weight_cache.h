// Packed layers of weights that somebody else owns and may change at any time: the contents decide. One cache for the
// process, since the callers of one weight (PyTorch's native calls and those in Python) must not differ.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "device.h"
#include "fingerprint.h"
#include "layer.h"
#include "qconv/qconv.h"

namespace qconv {

/// Weights as one call finds them, and what it is about to do with them.
struct CurrentWeights {
    const qconv_layer_config &config;
    std::shared_ptr<Device> device; ///< none: on the CPU
    const void *address;            ///< what they are known by
    const float *weight;            ///< in host memory, dense; NULL where reading them is costly
    const float *bias;
    std::uint64_t version; ///< another number: they may have changed anywhere
    std::int64_t batch;
    std::int64_t width;
    bool backward; ///< needs no bias
};

/// Fingerprints of weights and bias, in parts.
class WeightPrint {
public:
    explicit WeightPrint(const CurrentWeights &weights);

    /// Whether every bit is as it was.
    bool is_of(const CurrentWeights &weights) const;
    /// Whether the bias, a sample of the weights and the part whose turn it is are as they were. Long calls see several
    /// parts, for they have the time.
    bool seems_of(const CurrentWeights &weights) const;

private:
    std::uint64_t part(const CurrentWeights &weights, std::size_t index) const;

    std::size_t values_;
    std::size_t part_values_;
    std::vector<std::uint64_t> parts_;
    std::uint64_t sample_ = 0; // if there are several parts
    std::uint64_t bias_ = 0;
    mutable std::atomic<std::size_t> turn_ = 0;
};

class WeightCache {
public:
    /// Never destroyed: whoever owns weights may outlive static objects.
    static WeightCache &instance();

    /// A layer of these weights, made or packed anew where they are not what it was made from; NULL if that is so and
    /// they cannot be read. No other call changes it before release(). `first`: nothing was known of the address.
    qconv_layer *acquire(const CurrentWeights &weights, bool &first);
    void release(const qconv_layer *layer);
    void forget(const void *address);
    /// Addresses with layers.
    std::size_t count();

    void set_check(qconv_weight_check check) { check_ = check; }
    qconv_weight_check check() const { return check_; }

private:
    struct Packed;
    using Owned = std::unordered_map<const qconv_layer *, std::unique_ptr<Packed>>;
    using Owner = Owned::node_type;

    WeightCache() = default;
    Packed *find(const CurrentWeights &weights);
    bool current(Packed &packed, const CurrentWeights &weights) const;
    Owner withdraw(Packed &packed);
    /// Off the list of its address; the layer goes when nobody uses it.
    Owner unlist(Packed &packed);

    std::atomic<qconv_weight_check> check_ = QCONV_CHECK_SAMPLED;
    std::mutex mutex_; // of all below; nothing is read, packed or destroyed while it is held
    Owned owned_;
    std::unordered_map<const void *, std::vector<Packed *>> by_address_;
};

} // namespace qconv
