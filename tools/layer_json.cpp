#include "tools/layer_json.h"

namespace qconv::tools {
namespace {

using Json = nlohmann::ordered_json;

Json quantizer_json(const qconv_quantizer &q) {
    Json json = {{"name", qconv_quantizer_name(q.kind)}};
    if (q.kind == QCONV_INPUTDOREFA || q.kind == QCONV_WEIGHTDOREFA) json["bits"] = q.bits;
    if (q.kind == QCONV_SWISHSIGN) json["beta"] = q.beta;
    if (q.kind == QCONV_PROGRESSIVE_SIGN) {
        json["alpha"] = q.alpha;
        json["beta"] = q.beta;
        json["scale"] = q.scale;
        json["training"] = q.training != 0;
    }
    return json;
}

Json quantization_json(const qconv_quantizer &first, const qconv_quantizer &next, float mix) {
    if (mix == 0) return quantizer_json(first);
    return {{"name", "scheduled"},
            {"procedure", "mix_linear"},
            {"quantizations", Json::array({quantizer_json(first), quantizer_json(next)})},
            {"factor", mix}};
}

} // namespace

Json layer_json(const LayerSpec &layer) {
    const qconv_layer_config &c = layer.config;
    Json json = {{"name", layer.name},
                 {"layer", layer_kind_name(c.kind)},
                 {"in_channels", c.in_channels},
                 {"out_channels", c.out_channels},
                 {"kernel_size", c.kernel_size},
                 {"stride", c.stride},
                 {"padding", Json::array({c.pad_left, c.pad_right})},
                 {"dilation", c.dilation},
                 {"groups", c.groups}};
    if (c.kind != QCONV_LAYER_CONV1D) {
        json["pad_value"] = c.pad_value;
        json["weight_quantization"] = quantization_json(c.weight_quantization, c.weight_next, c.weight_mix);
    } else {
        json["bias"] = layer.bias;
    }
    if (c.kind == QCONV_LAYER_QCONV1D) {
        json["input_quantization"] = quantization_json(c.input_quantization, c.input_next, c.input_mix);
        // NaN is none.
        if (c.gradient_cancellation_threshold >= 0) {
            json["gradient_cancellation_threshold"] = c.gradient_cancellation_threshold;
        } else {
            json["gradient_cancellation_threshold"] = nullptr;
        }
    }
    if (layer.width > 0) json["width"] = layer.width;
    if (layer.batch > 0) json["batch"] = layer.batch;
    return json;
}

} // namespace qconv::tools
