// Any bytes as a .npy file: a tensor whose shape and data agree, or an InputError.
#include <cstdlib>

#include "memory_file.h"
#include "tools/errors.h"
#include "tools/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const qconv::fuzz::MemoryFile file(data, size);
    try {
        const qconv::tools::Tensor tensor = qconv::tools::read_npy(file.path());
        int64_t elements = 1;
        for (const int64_t extent : tensor.shape)
            elements *= extent;
        if (elements != static_cast<int64_t>(tensor.data.size())) std::abort();
    } catch (const qconv::tools::InputError &) {
        // What bad input gives.
    }
    return 0;
}
