// How the backward calls are cut up: tiles, workers, workspace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "qconv/qconv.h"

namespace qconv {

struct GradInputPlan {
    std::int64_t tile_width; // columns of one task: each has `stride` positions of x
    int workers;
    std::size_t slab; // bytes of workspace of one worker

    std::size_t workspace() const { return static_cast<std::size_t>(workers) * slab; }
};

/// The sums of a weight run over tiles of outputs, in order, and over pieces of the batch: neither may depend on the
/// number of threads.
struct GradWeightPlan {
    std::int64_t width_out;
    std::int64_t samples;       // of one call; the rest of the batch is added by further calls
    std::int64_t tile_width;    // outputs summed per pass
    std::int64_t tile_channels; // of one task
    int workers;
    std::size_t slab;  // bytes of workspace of one worker
    std::size_t extra; // bytes that the calling thread's slab has more
    std::size_t sums;  // bytes behind the slabs: the result of a further call, 0 where there is none
    std::size_t input; // bytes behind those: the input of a call that is quantized before

    std::size_t workspace() const { return static_cast<std::size_t>(workers) * slab + extra + sums + input; }
};

/// batch >= 1, at most `largest` in one call; width as width_out() accepts it.
GradInputPlan plan_grad_input(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch,
                              std::int64_t width, int threads);
GradWeightPlan plan_grad_weight(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch,
                                std::int64_t largest, std::int64_t width, int threads);

} // namespace qconv
