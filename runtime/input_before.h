// An input that is quantized before the kernels of a call run, part by part, into the workspace of the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "config.h"
#include "qconv/qconv.h"
#include "quantize.h"

namespace qconv {

class InputBefore {
public:
    /// x [batch, in_channels, width], or NULL where the call has none. The last `bytes` of the workspace hold a part.
    InputBefore(const qconv_layer_config &config, const float *x, std::int64_t batch, std::int64_t width,
                void *workspace, std::size_t workspace_bytes, std::size_t bytes)
        : x_(x),
          sample_(config.in_channels * width),
          values_(reinterpret_cast<float *>(static_cast<std::byte *>(workspace) + workspace_bytes - bytes)) {
        if (x == nullptr || !quantized_before(config)) return;
        quantizer_.emplace(input_quantizer(config), std::span(x, static_cast<std::size_t>(batch * sample_)));
    }

    /// What kernels get of these samples: x itself, or its values, which the next call overwrites.
    const float *at(std::int64_t first, std::int64_t samples) const {
        if (x_ == nullptr) return nullptr;
        const float *part = x_ + first * sample_;
        if (!quantizer_) return part;
        quantizer_->values({part, static_cast<std::size_t>(samples * sample_)}, values_);
        return values_;
    }

private:
    const float *x_;
    std::int64_t sample_;
    float *values_;
    std::optional<TensorQuantizer> quantizer_;
};

} // namespace qconv
