// The backward side of the quantizers: which derivative a layer's gradients take, and what its forward pass must save.
#pragma once

#include <span>

#include "config.h"
#include "qconv/layout.h"
#include "qconv/qconv.h"

namespace qconv {

/// Whether the layer was created for all of these directions, a bit set.
inline bool goes(const qconv_layer_config &config, unsigned directions) {
    return (config.directions & directions) == directions;
}

/// Whether the straight-through derivative of this quantizer is 1 everywhere.
bool unit_derivative(const MixedQuantizer &mixed);

/// Bits of the levels that the layer's input becomes, where a state of them can stand for x in backward; else 0.
int state_bits(const qconv_layer_config &config);

/// Whether a threshold cancels gradients of the input.
bool cancels_gradients(const qconv_layer_config &config);

/// Of a checked configuration, given its directions.
qconv_saved saved(const qconv_layer_config &config);

/// The factor of grad_input.
Surrogate input_surrogate(const qconv_layer_config &config);
/// Where grad_weight takes the input's values from; One: what its kernels get has them as it is.
Surrogate input_source(const qconv_layer_config &config);
/// Whether the weight's quantizer has a derivative other than 1.
bool has_weight_factor(const qconv_layer_config &config);

/// The kind whose derivative kernels take: QCONV_IDENTITY stands for all of derivative 1.
qconv_quantizer_kind derivative_kind(const qconv_quantizer &quantizer);

/// factors[i]: the derivative of the quantizer at values[i].
void take_derivatives(const MixedQuantizer &mixed, std::span<const float> values, float *factors);

} // namespace qconv
