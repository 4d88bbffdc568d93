#include "surrogate.h"

#include <cmath>

namespace qconv {
namespace {

bool unit_derivative(const qconv_quantizer &quantizer) {
    return quantizer.kind != QCONV_APPROXSIGN && quantizer.kind != QCONV_SWISHSIGN &&
           quantizer.kind != QCONV_STEHEAVISIDE;
}

} // namespace

bool unit_derivative(const MixedQuantizer &mixed) {
    return unit_derivative(mixed.first) && (mixed.mix == 0 || unit_derivative(mixed.next));
}

bool sign_input(const qconv_layer_config &config) {
    const MixedQuantizer input = input_quantizer(config);
    return input.mix == 0 && (input.first.kind == QCONV_SIGN || input.first.kind == QCONV_STEHEAVISIDE);
}

bool cancels_gradients(const qconv_layer_config &config) {
    return config.kind == QCONV_LAYER_QCONV1D && !std::isnan(config.gradient_cancellation_threshold);
}

qconv_saved saved(const qconv_layer_config &config) {
    const bool factor = cancels_gradients(config) || !unit_derivative(input_quantizer(config));
    if (!goes(config, QCONV_GRAD_WEIGHT) && !(goes(config, QCONV_GRAD_INPUT) && factor)) return QCONV_SAVES_NOTHING;
    return sign_input(config) ? QCONV_SAVES_STATE : QCONV_SAVES_INPUT;
}

Surrogate input_surrogate(const qconv_layer_config &config) {
    if (!cancels_gradients(config) && unit_derivative(input_quantizer(config))) return Surrogate::One;
    return sign_input(config) ? Surrogate::FromState : Surrogate::FromInput;
}

Surrogate weight_surrogate(const qconv_layer_config &config) {
    return unit_derivative(weight_quantizer(config)) ? Surrogate::One : Surrogate::FromInput;
}

} // namespace qconv
