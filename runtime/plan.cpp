#include "plan.h"

#include <algorithm>

#include "config.h"
#include "marshal.h"
#include "memory.h"
#include "qconv/layout.h"
#include "workspace.h"

namespace qconv {
namespace {

// Outputs of one tile: enough to hide its set-up, few enough that its scratch stays in L2.
constexpr std::int64_t widest_tile = 1024;
// Of kernels with one output channel, whose tasks go through the rows of several groups: pieces of rows would lie
// apart.
constexpr std::int64_t widest_tile_of_row = 4096;
constexpr std::int64_t scratch_in_cache = 512 * std::int64_t{1024};
constexpr std::int64_t fewest_blocks = 4;
constexpr std::int64_t most_prepared = std::int64_t{4} << 20; // bytes of prepared input made in one call

// Waking a thread costs some microseconds: a worker must have this much to do.
constexpr double nanoseconds_per_worker = 10'000;
// Of input or output, quantized and packed or scaled and stored: what layers of few channels spend most of their time
// on.
constexpr double nanoseconds_per_element = 0.1;
// Two threads that each write a part of a channel's row share a cache line at the seam, which goes back and forth.
constexpr double nanoseconds_per_seam = 50;

double multiplications_per_nanosecond(const qconv_kernel &kernel) {
    switch (kernel.path) {
        case QCONV_PATH_B1B1:
            return 1000.0 / (kernel.input_planes * kernel.weight_planes);
        case QCONV_PATH_INT8:
            return 300;
        case QCONV_PATH_F32B1:
            return 150;
        case QCONV_PATH_F32F32:
        case QCONV_PATHS:
            break;
    }
    return 60;
}

// Width blocks of the widest tile that stays in cache, but not so narrow that most of it is shared with its neighbours.
std::int64_t widest_in_cache(const qconv_kernel &kernel, const qconv_layer_config &config) {
    const std::int64_t block = kernel.width_block;
    if (kernel.tile_width > 0) return ceil_div(kernel.tile_width, block);
    const std::int64_t positions = scratch_in_cache / scratch_per_position(kernel, config) - tap_span(config);
    const std::int64_t blocks = positions / (config.stride * block);
    const std::int64_t fewest = std::max(fewest_blocks, ceil_div(2 * tap_span(config), config.stride * block));
    const bool by_rows = kernel.out_block == 1 && kernel.tables == 0 && kernel.group_block <= 1;
    const std::int64_t widest = by_rows ? widest_tile_of_row : widest_tile;
    const std::int64_t most = std::max<std::int64_t>(widest / block, 1);
    return std::min(std::max(blocks, fewest), most);
}

// Whether a forward kernel quantizes this layer's input in a pass before it pads: all but what costs little.
bool prepares_input(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (kernel.word_bits > 0) return false;
    const MixedQuantizer input = kernel_input_quantizer(config);
    const auto kind = forward_kind(input.first);
    return input.mix != 0 || (kind != QCONV_IDENTITY && kind != QCONV_SIGN && kind != QCONV_INPUTDOREFA);
}

} // namespace

std::int64_t prepared_bytes(const qconv_layer_config &config, std::int64_t width) {
    constexpr std::int64_t whole_vectors = 64; // positions beyond a row
    return config.in_channels * (width + whole_vectors) * std::int64_t{sizeof(float)};
}

std::int64_t quantized_bytes(const qconv_layer_config &config, std::int64_t width) {
    return quantized_before(config) ? config.in_channels * width * std::int64_t{sizeof(float)} : 0;
}

std::int64_t samples_in_cache(std::int64_t prepared_bytes, std::int64_t samples) {
    return prepared_bytes == 0 ? samples : std::clamp<std::int64_t>(most_prepared / prepared_bytes, 1, samples);
}

std::int64_t worthwhile_workers(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch,
                                std::int64_t width, int threads, std::int64_t channels_of_task) {
    const double inputs = static_cast<double>(config.in_channels) * static_cast<double>(width);
    const double outputs = static_cast<double>(config.out_channels) * static_cast<double>(width_out(config, width));
    const double multiplications = outputs * static_cast<double>(window_elements(config));
    const double nanoseconds = static_cast<double>(batch) * (multiplications / multiplications_per_nanosecond(kernel) +
                                                             (inputs + outputs) * nanoseconds_per_element);
    const bool seams = batch * config.groups < threads;
    const double least = nanoseconds_per_worker + (seams ? double(channels_of_task) * nanoseconds_per_seam : 0);
    return static_cast<std::int64_t>(std::clamp(nanoseconds / least, 1.0, double(threads)));
}

std::int64_t choose_tiles(std::int64_t fewest, std::int64_t blocks, std::int64_t rows, std::int64_t workers) {
    for (std::int64_t tiles = fewest; tiles <= std::min(blocks, fewest + workers); ++tiles) {
        const std::int64_t tasks = rows * tiles;
        if (tasks % workers == 0 || tasks >= 8 * workers) return tiles;
    }
    return fewest;
}

Plan make_plan(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch, std::int64_t width,
               int threads) {
    Plan plan{};
    const std::int64_t prepared = prepares_input(kernel, config) ? prepared_bytes(config, width) : 0;
    const std::int64_t quantized = quantized_bytes(config, width);
    batch = plan.samples = samples_in_cache(prepared + quantized, batch);
    plan.extra = align_up(static_cast<std::size_t>(prepared * batch));
    plan.input = align_up(static_cast<std::size_t>(quantized * batch));
    plan.width_out = width_out(config, width);
    const std::int64_t block = kernel.width_block;
    const std::int64_t blocks = ceil_div(plan.width_out, block);
    const std::int64_t groups = std::max(kernel.group_block, 1); // of a task
    const std::int64_t rows = batch * ceil_div(config.groups, groups);

    const std::int64_t workers =
        worthwhile_workers(kernel, config, batch, width, threads, groups * out_in_group(config));

    std::int64_t tiles = ceil_div(blocks, widest_in_cache(kernel, config));
    if (workers > 1) tiles = choose_tiles(tiles, blocks, rows, workers);
    const std::int64_t tile_blocks = ceil_div(blocks, tiles);
    plan.tile_width = tile_blocks * block;
    plan.workers = static_cast<int>(std::min(workers, rows * ceil_div(blocks, tile_blocks)));
    plan.slab = slab_bytes(scratch_bytes(kernel, config, plan.tile_width));
    return plan;
}

} // namespace qconv
