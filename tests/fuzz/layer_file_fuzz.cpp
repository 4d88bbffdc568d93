// Any bytes as a layer file: a list of layers whose configurations the runtime accepts, or an InputError.
#include <cstdlib>

#include "memory_file.h"
#include "tools/errors.h"
#include "tools/layer_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const qconv::fuzz::MemoryFile file(data, size);
    try {
        for (const qconv::tools::LayerSpec &layer : qconv::tools::read_layer_file(file.path())) {
            if (qconv_layer_config_check(&layer.config) != QCONV_OK) std::abort();
            if (qconv::tools::describe_layer(layer).empty()) std::abort();
        }
    } catch (const qconv::tools::InputError &) {
        // What bad input gives.
    }
    return 0;
}
