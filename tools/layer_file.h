// The layer file: JSON, one layer, a list of layers, or {"layers": [...]}. docs/qconvc.md lists the keys.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::tools {

struct LayerSpec {
    std::string name;
    qconv_layer_config config{};
    bool bias = false;
    int64_t width = 0, batch = 0; // estimates; 0 when the file gives none
};

/// Reads and checks a layer file. Throws InputError naming the file, the line or layer, the key, its value, and what is
/// allowed.
std::vector<LayerSpec> read_layer_file(const std::filesystem::path &path);

/// One layer from a JSON object of the layer file's form; `where` begins the messages.
LayerSpec layer_from_json(const nlohmann::json &json, const std::string &where);

/// The one layer of `path`, or the one called `name` when it holds several.
LayerSpec read_one_layer(const std::filesystem::path &path, const std::string &name);

/// A quantizer as the command line gives it: a name, or "inputdorefa(2)" with the bits in parentheses.
qconv_quantizer parse_quantizer(const std::string &text);

/// A gradient_cancellation_threshold as the command line gives it: a number >= 0, or "none" (NaN).
float parse_threshold(const std::string &text);

/// "QConv1d", "QConv1d_NoAct", "conv1d"; and back (throws InputError).
const char *layer_kind_name(qconv_layer_kind kind);
qconv_layer_kind parse_layer_kind(const std::string &text);

/// "sign", "inputdorefa(2)"; with the second quantizer of a mix, "0.7*identity + 0.3*sign".
std::string describe_quantizer(const qconv_quantizer &quantizer, const qconv_quantizer &next, float mix);

/// One line: kind, channels, window and quantizers.
std::string describe_layer(const LayerSpec &layer);

} // namespace qconv::tools
