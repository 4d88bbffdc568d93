// How one forward call is cut up: tiles, workers, workspace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "qconv/qconv.h"

namespace qconv {

struct Plan {
    std::int64_t width_out;
    std::int64_t tile_width; // outputs of one task; a multiple of the kernel's width_block
    int workers;
    std::size_t slab; // bytes of workspace of one worker

    std::size_t workspace() const { return static_cast<std::size_t>(workers) * slab; }
};

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
