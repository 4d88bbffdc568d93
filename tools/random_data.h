// Seeded random tensors for checks and timings.
#pragma once

#include <cstdint>

#include "tools/layer_run.h"

namespace qconv::tools {

/// Input, weight, bias if asked for and, where the directions need it, the gradient of the output. Values reach what
/// quantizers care about: both signs, zeros of both signs, ties, both ends of a clamp, values beyond 1, and in x also
/// the gradient cancellation threshold, exactly. The padded input must hold one window.
LayerData random_data(const qconv_layer_config &config, int64_t batch, int64_t width, bool bias, uint64_t seed);

} // namespace qconv::tools
