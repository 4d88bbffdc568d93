// The backward side of the quantizers: which derivative a layer's gradients take, and what its forward pass must save.
#pragma once

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

/// What the layer's input becomes is +1 or -1, decided by the sign of x alone: the state can stand for x.
bool sign_input(const qconv_layer_config &config);

/// Whether a threshold cancels gradients of the input.
bool cancels_gradients(const qconv_layer_config &config);

/// Of a checked configuration, given its directions.
qconv_saved saved(const qconv_layer_config &config);

/// The factor of grad_input.
Surrogate input_surrogate(const qconv_layer_config &config);
/// The factor of grad_weight, taken from the float weights.
Surrogate weight_surrogate(const qconv_layer_config &config);

} // namespace qconv
