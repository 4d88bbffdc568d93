#include "tools/layer_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "tools/json_object.h"

namespace qconv::tools {
namespace {

using Json = nlohmann::json;

const std::vector<std::string> kLayerKeys = {"name",
                                             "layer",
                                             "in_channels",
                                             "out_channels",
                                             "kernel_size",
                                             "stride",
                                             "padding",
                                             "dilation",
                                             "groups",
                                             "pad_value",
                                             "bias",
                                             "input_quantization",
                                             "weight_quantization",
                                             "gradient_cancellation_threshold",
                                             "width",
                                             "batch"};
const std::vector<std::string> kQuantizerKeys = {"name", "bits", "alpha", "beta", "scale", "training"};
const std::vector<std::string> kScheduledKeys = {"name", "procedure", "quantizations", "factor"};

struct Quantization {
    qconv_quantizer first, next;
    float mix;
};

std::vector<std::string> quantizer_names() {
    std::vector<std::string> names;
    for (int kind = 0; kind < QCONV_QUANTIZER_KINDS; kind++) {
        names.emplace_back(qconv_quantizer_name(static_cast<qconv_quantizer_kind>(kind)));
    }
    return names;
}

qconv_quantizer named_quantizer(const std::string &name, const std::string &where) {
    qconv_quantizer_kind kind{};
    if (qconv_quantizer_from_name(name.c_str(), &kind) != QCONV_OK) {
        std::vector<std::string> names = quantizer_names();
        names.emplace_back("scheduled");
        throw InputError(fmt::format("{}: quantizer '{}' is unknown{}; known: {}", where, name,
                                     did_you_mean(name, names), join(names)));
    }
    return qconv_quantizer_default(kind);
}

qconv_quantizer simple_quantizer(const Json &json, const std::string &where) {
    if (json.is_string()) return named_quantizer(json.get<std::string>(), where);
    const JsonObject object(json, where, kQuantizerKeys);
    if (!object.has("name")) object.fail("key 'name' is missing; it must be one of " + join(quantizer_names()));
    qconv_quantizer quantizer = named_quantizer(object.text("name", ""), where);
    const qconv_quantizer_kind kind = quantizer.kind;
    const auto only_for = [&](const char *key, std::initializer_list<qconv_quantizer_kind> kinds) {
        if (!object.has(key) || std::find(kinds.begin(), kinds.end(), kind) != kinds.end()) return;
        object.fail(fmt::format("'{}' has no meaning for {}", key, qconv_quantizer_name(kind)));
    };
    only_for("bits", {QCONV_INPUTDOREFA, QCONV_WEIGHTDOREFA});
    only_for("alpha", {QCONV_PROGRESSIVE_SIGN});
    only_for("beta", {QCONV_SWISHSIGN, QCONV_PROGRESSIVE_SIGN});
    only_for("scale", {QCONV_PROGRESSIVE_SIGN});
    only_for("training", {QCONV_PROGRESSIVE_SIGN});
    const int64_t bits = object.integer("bits", quantizer.bits);
    if (bits < 1 || bits > 8) object.fail(fmt::format("'bits' is {}; it must be 1 to 8", bits));
    quantizer.bits = static_cast<int32_t>(bits);
    quantizer.alpha = object.number("alpha", quantizer.alpha);
    quantizer.beta = object.number("beta", quantizer.beta);
    quantizer.scale = object.number("scale", quantizer.scale);
    quantizer.training = object.boolean("training", quantizer.training != 0);
    return quantizer;
}

/// bitorch's scheduled quantizer at one moment, factor 0 (start) to 1 (end of the schedule).
Quantization scheduled_quantizer(const Json &json, const std::string &where) {
    const JsonObject object(json, where, kScheduledKeys);
    const std::string procedure = object.text("procedure", "");
    if (procedure != "mix_linear" && procedure != "step") {
        object.fail(fmt::format("'procedure' is '{}'; it must be mix_linear or step", procedure));
    }
    if (!object.has("quantizations") || !object.at("quantizations").is_array() || object.at("quantizations").empty()) {
        object.fail("'quantizations' must be a list of one or more quantizers");
    }
    const float factor = object.number("factor", 0);
    if (factor < 0 || factor > 1) object.fail(fmt::format("'factor' is {}; it must be 0 to 1", factor));
    std::vector<qconv_quantizer> stages;
    for (const Json &stage : object.at("quantizations")) {
        stages.push_back(simple_quantizer(stage, fmt::format("{}: quantizations[{}]", where, stages.size())));
    }
    const std::size_t last = stages.size() - 1;
    if (procedure == "step") {
        const auto stage = std::min(static_cast<std::size_t>(factor * static_cast<float>(stages.size())), last);
        return {stages[stage], stages[stage], 0};
    }
    const float position = factor * static_cast<float>(last);
    const auto lower = static_cast<std::size_t>(position);
    if (lower == last) return {stages[last], stages[last], 0};
    return {stages[lower], stages[lower + 1], position - static_cast<float>(lower)};
}

Quantization read_quantization(const JsonObject &layer, const std::string &key) {
    const std::string where = layer.where() + ": " + key;
    const Json &json = layer.at(key);
    if (json.is_object() && json.value("name", Json()) == "scheduled") return scheduled_quantizer(json, where);
    const qconv_quantizer quantizer = simple_quantizer(json, where);
    return {quantizer, quantizer, 0};
}

void read_padding(const JsonObject &layer, qconv_layer_config &config) {
    if (!layer.has("padding")) return;
    const Json &padding = layer.at("padding");
    if (padding.is_string()) {
        if (padding == "valid") return;
        if (padding != "same")
            layer.fail_type("padding", padding, "an integer >= 0, [left, right], \"valid\" or \"same\"");
        if (qconv_layer_config_pad_same(&config) != QCONV_OK) layer.fail(qconv_last_error());
    } else if (padding.is_array()) {
        if (padding.size() != 2) layer.fail_type("padding", padding, "two integers, [left, right]");
        config.pad_left = layer.to_integer(padding[0], "padding[0]");
        config.pad_right = layer.to_integer(padding[1], "padding[1]");
    } else {
        config.pad_left = config.pad_right = layer.to_integer(padding, "padding");
    }
}

LayerSpec read_layer(const Json &json, const std::string &file, std::size_t index) {
    const std::string fallback = fmt::format("layer{}", index);
    std::string where = fmt::format("{}: layer {}", file, index);
    if (json.is_object() && json.contains("name") && json["name"].is_string()) {
        where += fmt::format(" '{}'", json["name"].get<std::string>());
    }
    const JsonObject object(json, where, kLayerKeys);
    LayerSpec layer;
    layer.name = object.text("name", fallback);
    if (layer.name.empty()) object.fail("'name' is empty");
    if (printable(layer.name) != layer.name) object.fail("'name' holds a control character");
    if (!object.has("layer")) object.fail("key 'layer' is missing; it must be QConv1d, QConv1d_NoAct or conv1d");
    try {
        qconv_layer_config_init(&layer.config, parse_layer_kind(object.text("layer", "")));
    } catch (const InputError &error) {
        object.fail(error.what());
    }
    qconv_layer_config &config = layer.config;
    config.in_channels = object.required_integer("in_channels");
    config.out_channels = object.required_integer("out_channels");
    config.kernel_size = object.required_integer("kernel_size");
    config.stride = object.integer("stride", 1);
    config.dilation = object.integer("dilation", 1);
    config.groups = object.integer("groups", 1);
    config.pad_value = object.number("pad_value", config.pad_value);
    read_padding(object, config);

    const auto refuse = [&](const char *key, const char *reason) {
        if (object.has(key)) object.fail(fmt::format("'{}' does not apply: {}", key, reason));
    };
    if (config.kind == QCONV_LAYER_CONV1D) {
        refuse("weight_quantization", "conv1d is a float layer");
    }
    if (config.kind != QCONV_LAYER_QCONV1D) {
        refuse("input_quantization", "only QConv1d quantizes its input");
        refuse("gradient_cancellation_threshold", "only QConv1d quantizes its input");
    }
    if (object.has("input_quantization")) {
        const Quantization q = read_quantization(object, "input_quantization");
        config.input_quantization = q.first, config.input_next = q.next, config.input_mix = q.mix;
    }
    if (object.has("weight_quantization")) {
        const Quantization q = read_quantization(object, "weight_quantization");
        config.weight_quantization = q.first, config.weight_next = q.next, config.weight_mix = q.mix;
    }
    layer.bias = object.boolean("bias", false);
    if (layer.bias && config.kind != QCONV_LAYER_CONV1D) {
        object.fail(fmt::format("'bias' is true; {} has no bias (bitorch's layers have none): false, or use conv1d",
                                layer_kind_name(config.kind)));
    }
    if (object.has("gradient_cancellation_threshold")) {
        constexpr const char *allowed = "a number >= 0, or null for none";
        const Json &threshold = object.at("gradient_cancellation_threshold");
        if (!threshold.is_null()) {
            if (!threshold.is_number()) object.fail_type("gradient_cancellation_threshold", threshold, allowed);
            const float value = object.to_number(threshold, "gradient_cancellation_threshold");
            if (value < 0) object.fail_type("gradient_cancellation_threshold", threshold, allowed);
            config.gradient_cancellation_threshold = value;
        }
    }
    layer.width = object.integer("width", 0);
    layer.batch = object.integer("batch", 0);
    for (const char *key : {"width", "batch"}) {
        if (object.has(key) && object.integer(key, 0) < 1) object.fail_type(key, object.at(key), "an integer >= 1");
    }
    config.width = layer.width;
    if (qconv_layer_config_check(&config) != QCONV_OK) object.fail(qconv_last_error());
    const int64_t window = config.dilation * (config.kernel_size - 1) + 1;
    if (layer.width > 0 && layer.width + config.pad_left + config.pad_right < window) {
        object.fail(fmt::format("'width' is {}; with padding {} + {} it must hold one window of {} positions",
                                layer.width, config.pad_left, config.pad_right, window));
    }
    return layer;
}

} // namespace

LayerSpec layer_from_json(const nlohmann::json &json, const std::string &where) {
    return read_layer(json, where, 0);
}

std::vector<LayerSpec> read_layer_file(const std::filesystem::path &path) {
    const std::string file = path.string();
    const Json json = read_json(file);
    const Json *list = &json;
    if (json.is_object() && json.contains("layers")) {
        const JsonObject object(json, file, {"layers"});
        list = &json["layers"];
        if (!list->is_array()) object.fail_type("layers", *list, "a list of layers");
    }
    if (list->is_array() && list->empty()) throw InputError(fmt::format("{}: holds no layer", file));
    std::vector<LayerSpec> layers;
    std::map<std::string, std::size_t> seen;
    const auto add = [&](const Json &entry) {
        const std::size_t index = layers.size();
        layers.push_back(read_layer(entry, file, index));
        const auto [other, fresh] = seen.emplace(layers.back().name, index);
        if (fresh) return;
        throw InputError(fmt::format("{}: layers {} and {} are both called '{}'; names must differ", file,
                                     other->second, index, layers.back().name));
    };
    if (list->is_array()) {
        std::for_each(list->begin(), list->end(), add);
    } else {
        add(*list);
    }
    return layers;
}

LayerSpec read_one_layer(const std::filesystem::path &path, const std::string &name) {
    std::vector<LayerSpec> layers = read_layer_file(path);
    if (name.empty()) {
        if (layers.size() == 1) return layers.front();
        throw InputError(fmt::format("{}: holds {} layers; choose one with --name", path.string(), layers.size()));
    }
    std::vector<std::string> names;
    for (const LayerSpec &layer : layers) {
        if (layer.name == name) return layer;
        names.push_back(layer.name);
    }
    throw InputError(fmt::format("{}: no layer is called '{}'{}", path.string(), name, did_you_mean(name, names)));
}

qconv_quantizer parse_quantizer(const std::string &text) {
    const auto open = text.find('(');
    const std::string name = text.substr(0, open);
    if (open == std::string::npos) return simple_quantizer(Json(name), "quantizer");
    const std::string bits = text.substr(open + 1);
    if (bits.size() != 2 || bits[0] < '1' || bits[0] > '8' || bits[1] != ')') {
        throw InputError(fmt::format("quantizer '{}': write a name, or name(bits) with 1 to 8 bits", text));
    }
    return simple_quantizer(Json{{"name", name}, {"bits", bits[0] - '0'}}, "quantizer");
}

float parse_threshold(const std::string &text) {
    if (text == "none") return std::numeric_limits<float>::quiet_NaN();
    float value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size() && value >= 0 && std::isfinite(value)) return value;
    throw InputError(fmt::format("--threshold '{}': it must be a number >= 0, or none", text));
}

const char *layer_kind_name(qconv_layer_kind kind) {
    switch (kind) {
        case QCONV_LAYER_CONV1D:
            return "conv1d";
        case QCONV_LAYER_NOACT:
            return "QConv1d_NoAct";
        default:
            return "QConv1d";
    }
}

qconv_layer_kind parse_layer_kind(const std::string &text) {
    const std::vector<std::string> names = {"conv1d", "QConv1d_NoAct", "QConv1d"}; // in the order of the enum
    const auto found = std::find(names.begin(), names.end(), text);
    if (found != names.end()) return static_cast<qconv_layer_kind>(found - names.begin());
    throw InputError(
        fmt::format("'layer' is '{}'{}; it must be QConv1d, QConv1d_NoAct or conv1d", text, did_you_mean(text, names)));
}

std::string describe_quantizer(const qconv_quantizer &quantizer, const qconv_quantizer &next, float mix) {
    const auto one = [](const qconv_quantizer &q) {
        const bool bits = q.kind == QCONV_INPUTDOREFA || q.kind == QCONV_WEIGHTDOREFA;
        std::string text = qconv_quantizer_name(q.kind);
        if (bits) text += fmt::format("({})", q.bits);
        if (q.kind == QCONV_PROGRESSIVE_SIGN && q.training) text += fmt::format("(training, scale {})", q.scale);
        return text;
    };
    return mix > 0 ? fmt::format("{:g}*{} + {:g}*{}", 1 - mix, one(quantizer), mix, one(next)) : one(quantizer);
}

std::string describe_layer(const LayerSpec &layer) {
    const qconv_layer_config &c = layer.config;
    std::string text =
        fmt::format("{} {}->{} k{}", layer_kind_name(c.kind), c.in_channels, c.out_channels, c.kernel_size);
    if (c.stride != 1) text += fmt::format(" s{}", c.stride);
    if (c.dilation != 1) text += fmt::format(" d{}", c.dilation);
    if (c.groups != 1) text += fmt::format(" g{}", c.groups);
    if (c.kind == QCONV_LAYER_NOACT) text += " float";
    if (c.kind == QCONV_LAYER_QCONV1D) {
        text += " " + describe_quantizer(c.input_quantization, c.input_next, c.input_mix);
    }
    if (c.kind != QCONV_LAYER_CONV1D) {
        text += "/" + describe_quantizer(c.weight_quantization, c.weight_next, c.weight_mix);
    }
    // NaN, as in conv1d and QConv1d_NoAct, is none.
    if (c.gradient_cancellation_threshold >= 0) text += fmt::format(" |x|<={:g}", c.gradient_cancellation_threshold);
    return text;
}

} // namespace qconv::tools
