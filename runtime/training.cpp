// The training calls of a layer.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "backward.h"
#include "errors.h"
#include "grad_bias.h"
#include "layer.h"
#include "qconv/layout.h"
#include "threads.h"
#include "workspace.h"

namespace qconv {
namespace {

constexpr std::size_t no_bytes = 0;

void check_state(const void *state, std::size_t given, std::size_t needed) {
    require_pointer(state, "state");
    if (reinterpret_cast<std::uintptr_t>(state) % sizeof(std::uint32_t) != 0) {
        throw Error(QCONV_INVALID_ARGUMENT, "state is not aligned to 4 bytes");
    }
    if (given < needed) {
        throw_invalid("state_bytes", std::to_string(given), "this call needs " + std::to_string(needed));
    }
}

// A part of a batch, from sample `first` on.
BackwardInput slice(const qconv_layer_config &config, const BackwardInput &input, std::int64_t first,
                    std::int64_t samples) {
    BackwardInput part = input;
    const std::int64_t words = 2 * state_words(input.width) * config.in_channels;
    if (part.x != nullptr) part.x += first * config.in_channels * input.width;
    if (part.state != nullptr) part.state += first * words;
    part.grad_output += first * config.out_channels * width_out(config, input.width);
    part.batch = std::min(samples, input.batch - first);
    return part;
}

} // namespace
} // namespace qconv

std::size_t qconv_layer::state_size(std::int64_t batch, std::int64_t width) const {
    if (batch < 0 || batch > qconv::max_elements) {
        qconv::throw_invalid("batch", std::to_string(batch), "it must be 0.." + std::to_string(qconv::max_elements));
    }
    (void)largest_batch(width);
    if (saved() != QCONV_SAVES_STATE) return 0;
    return static_cast<std::size_t>(batch * config_.in_channels * 2 * qconv::state_words(width)) *
           sizeof(std::uint32_t);
}
