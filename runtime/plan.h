// How one forward call is cut up: tiles, workers, workspace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "qconv/qconv.h"

namespace qconv {

struct Plan {
    std::int64_t width_out;
    std::int64_t tile_width; // outputs of one task; a multiple of the kernel's width_block
    std::int64_t samples;    // of one call
    int workers;
    std::size_t slab;  // bytes of workspace of one worker
    std::size_t extra; // bytes that the calling thread's slab has more
    std::size_t input; // bytes behind the slabs: the input of a call that is quantized before

    std::size_t workspace() const { return static_cast<std::size_t>(workers) * slab + extra + input; }
};

/// Bytes of a sample's input where a kernel prepares its values, quantized, before it pads them.
std::int64_t prepared_bytes(const qconv_layer_config &config, std::int64_t width);

/// Bytes of a sample's input that is quantized before the kernels run; else 0.
std::int64_t quantized_bytes(const qconv_layer_config &config, std::int64_t width);

/// Samples that one call takes, at most `samples`, so that what is prepared of each stays in cache.
std::int64_t samples_in_cache(std::int64_t prepared_bytes, std::int64_t samples);

/// Threads, at most `threads`, that a call in one direction keeps busy for longer than it takes to wake them. A task
/// writes parts of the rows of so many channels; 0 if whole rows.
std::int64_t worthwhile_workers(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch,
                                std::int64_t width, int threads, std::int64_t channels_of_task);

/// Tiles of a row, at least `fewest`, so that the tasks of all rows share out evenly among the workers.
std::int64_t choose_tiles(std::int64_t fewest, std::int64_t blocks, std::int64_t rows, std::int64_t workers);

/// batch >= 1; width as width_out() accepts it.
Plan make_plan(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch, std::int64_t width,
               int threads);

} // namespace qconv
