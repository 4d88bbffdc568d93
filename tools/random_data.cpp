#include "tools/random_data.h"

#include <array>
#include <vector>

namespace qconv::tools {
namespace {

// SplitMix64: even the largest tensors of a workload table are filled in a fraction of a second.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}

    /// One value in ten is a special one, +-`threshold` among them; the others are uniform in [-2, 2).
    std::vector<float> tensor(int64_t size, float threshold = 1) {
        const std::array<float, 11> special = {0.0f, -0.0f,  1.0f,    -1.0f,     0.5f,      -0.5f,
                                               2.0f, 1e-30f, -1e-30f, threshold, -threshold};
        std::vector<float> values(static_cast<std::size_t>(size));
        for (float &v : values) {
            const uint64_t bits = next();
            const uint64_t dice = (bits & 0xffff) % (10 * special.size());
            v = dice < special.size() ? special[dice] : static_cast<float>(bits >> 40) * 0x1p-22f - 2.0f;
        }
        return values;
    }

private:
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    uint64_t state_;
};

/// 1 where there is none (NaN), or one so far out that sums with it would be rough.
float special_threshold(const qconv_layer_config &config) {
    return config.gradient_cancellation_threshold < 100 ? config.gradient_cancellation_threshold : 1.0f;
}

} // namespace

LayerData random_data(const qconv_layer_config &config, int64_t batch, int64_t width, bool bias, uint64_t seed) {
    const int64_t reach = config.dilation * (config.kernel_size - 1);
    const int64_t width_out = (width + config.pad_left + config.pad_right - reach - 1) / config.stride + 1;
    Random random(seed);
    LayerData data;
    data.batch = batch;
    data.width = width;
    data.x = random.tensor(batch * config.in_channels * width, special_threshold(config));
    data.weight = random.tensor(config.out_channels * (config.in_channels / config.groups) * config.kernel_size);
    if (bias) data.bias = random.tensor(config.out_channels);
    if (config.directions & ~uint32_t{QCONV_FORWARD})
        data.grad_output = random.tensor(batch * config.out_channels * width_out);
    return data;
}

} // namespace qconv::tools
