// A layer as a JSON object of the layer file's form.
#pragma once

#include <nlohmann/json.hpp>

#include "tools/layer_file.h"

namespace qconv::tools {

/// Every key that applies to the layer, in one order: layers that compute the same have the same text but for the name.
/// layer_from_json() gives the layer back.
nlohmann::ordered_json layer_json(const LayerSpec &layer);

} // namespace qconv::tools
