#include "plan_backward.h"

#include <algorithm>
#include <string>

#include "config.h"
#include "errors.h"
#include "memory.h"
#include "plan.h"
#include "qconv/layout.h"
#include "surrogate.h"
#include "workspace.h"

namespace qconv {
namespace {

constexpr std::int64_t float_bytes = sizeof(float);
constexpr std::int64_t small_stages = 16 * std::int64_t{1024};
constexpr std::int64_t largest_square = 16; // rows and columns of the result that are turned together
constexpr std::int64_t vector_slack = 128;  // positions beyond a tile or strip, for whole vectors

constexpr std::int64_t widest_tile = 1024;
constexpr std::int64_t fewest_blocks = 4;
constexpr std::int64_t tile_in_cache = 256 * std::int64_t{1024}; // bytes of one tile's inputs: well within L2
constexpr std::int64_t sums_in_cache =
    128 * std::int64_t{1024}; // bytes of one task's grad_weight sums: more of them share a table

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
    return ceil_div(value, multiple) * multiple;
}

// Columns between the gradients that one column's taps read, first to last, at most.
std::int64_t shift_range(const qconv_layer_config &config) {
    return ceil_div(tap_span(config), config.stride) + 1;
}

// Floats of gy that one column of a tile of grad_input takes.
std::int64_t padded_outputs(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (kernel.group_block > 1) return std::int64_t{2} * kernel.group_block; // along positions and turned
    const std::int64_t multiple = kernel.tables > 0 ? std::int64_t{kernel.tables} * kernel.table_channels : 1;
    return round_up(out_in_group(config), multiple);
}

std::size_t grad_input_scratch(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t tile_width) {
    const std::int64_t strip = kernel.width_block + vector_slack;
    const std::int64_t reach = shift_range(config);
    const std::int64_t channels = kernel.tables > 0 ? channels_in_group(config) : kernel.out_block;
    // A tile's gradients lie in room for twice its columns, half of it untouched: Halide bounds the strips one by one.
    std::int64_t floats = (2 * tile_width + kernel.width_block + vector_slack + reach) * padded_outputs(kernel, config);
    // Of one strip: the sums of these channels, and the factor and mask of one.
    floats += strip * config.stride * (channels + 2);
    if (kernel.tables > 0) floats += (std::int64_t{kernel.tables} << kernel.table_channels) * (strip + reach);
    return static_cast<std::size_t>(floats * float_bytes + small_stages);
}

// Channels that a grad_weight kernel sums together.
std::int64_t channel_block(const qconv_kernel &kernel) {
    return std::max<std::int64_t>(kernel.channel_block, 1);
}

// Positions of the padded input that a tile of outputs sees.
std::int64_t seen_positions(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t outputs) {
    return (outputs + kernel.table_channels + vector_slack) * config.stride + tap_span(config) + vector_slack;
}

// Bytes of one row of table indexes: a byte for each position.
std::int64_t index_row(const qconv_kernel &kernel, const qconv_layer_config &config, const GradWeightPlan &plan) {
    return seen_positions(kernel, config, round_up(plan.width_out, plan.tile_width));
}

// Bytes of one sample's prepared input: of table indexes, or of the values that x does not have itself.
std::int64_t prepared_input(const qconv_kernel &kernel, const qconv_layer_config &config, const GradWeightPlan &plan,
                            std::int64_t width) {
    if (kernel.tables > 0) return config.in_channels * index_row(kernel, config, plan);
    return input_source(config) == Surrogate::One ? 0 : prepared_bytes(config, width);
}

std::size_t grad_weight_scratch(const qconv_kernel &kernel, const qconv_layer_config &config,
                                const GradWeightPlan &plan) {
    const std::int64_t taps = config.kernel_size;
    std::int64_t floats = kernel.out_block * (plan.tile_width + vector_slack); // gy
    std::int64_t bytes = small_stages;
    if (kernel.tables > 0) {
        // Sums, and those outside. A task ends where a square of the result does: within a channel, or some ahead.
        floats += kernel.out_block * (taps * (plan.tile_channels + 3) + largest_square);
        floats += 2 * (std::int64_t{kernel.tables} << kernel.table_channels) * kernel.out_block;
        // The bits of a row, as they are; and padded, where each row has a place of its own.
        bytes += (1 + channels_in_group(config)) * index_row(kernel, config, plan);
    } else {
        const std::int64_t channels = round_up(plan.tile_channels, channel_block(kernel));
        const std::int64_t positions = seen_positions(kernel, config, plan.tile_width);
        const std::int64_t copies = kernel.unit_stride != 0 ? 1 : 2; // by phase
        floats += kernel.out_block * channels * round_up(taps, std::max<std::int64_t>(kernel.tap_block, 1)) +
                  copies * channels * positions;
        bytes += 2 * taps * std::int64_t{sizeof(std::int32_t)}; // where taps fall
    }
    return static_cast<std::size_t>(floats * float_bytes + bytes);
}

// Channels of one task, whole blocks of them.
std::int64_t channels_in_cache(const qconv_kernel &kernel, const qconv_layer_config &config) {
    const std::int64_t block = channel_block(kernel);
    const std::int64_t fit = sums_in_cache / (kernel.out_block * config.kernel_size * float_bytes);
    return std::min(std::max(fit / block, std::int64_t{1}) * block, channels_in_group(config));
}

// Outputs of a pass whose gradients and inputs stay in L2.
std::int64_t grad_weight_tile(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t width_out,
                              std::int64_t channels) {
    const std::int64_t inputs = kernel.tables > 0 ? 0 : channels * config.stride;
    const std::int64_t per_output = (kernel.out_block + inputs) * float_bytes;
    const std::int64_t block = kernel.width_block;
    const std::int64_t most = std::max<std::int64_t>(widest_tile / block, 1);
    const std::int64_t fit = kernel.tile_width > 0
                                 ? ceil_div(kernel.tile_width, block)
                                 : std::clamp(tile_in_cache / per_output / block, std::min(fewest_blocks, most), most);
    const std::int64_t blocks = ceil_div(width_out, block);
    return ceil_div(blocks, ceil_div(blocks, fit)) * block;
}

} // namespace

GradInputPlan plan_grad_input(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch,
                              std::int64_t width, int threads) {
    GradInputPlan plan{};
    const std::int64_t block = kernel.width_block;
    const std::int64_t blocks = ceil_div(ceil_div(width, config.stride), block);
    const std::int64_t groups = std::max(kernel.group_block, 1); // of a task
    const std::int64_t rows = batch * ceil_div(config.groups, groups);
    const std::int64_t workers =
        worthwhile_workers(kernel, config, batch, width, threads, groups * channels_in_group(config));

    const std::int64_t reach = shift_range(config);
    const std::int64_t fit = tile_in_cache / (padded_outputs(kernel, config) * float_bytes) - reach;
    const std::int64_t most = std::max<std::int64_t>(widest_tile / block, 1);
    // Not so narrow that most of a tile's gradients are its neighbours' too.
    const std::int64_t fewest = std::max<std::int64_t>(ceil_div(2 * reach, block), 1);
    const std::int64_t widest =
        kernel.tile_width > 0 ? ceil_div(kernel.tile_width, block) : std::min(std::max(fit / block, fewest), most);
    std::int64_t tiles = ceil_div(blocks, widest);
    if (workers > 1) tiles = choose_tiles(tiles, blocks, rows, workers);
    const std::int64_t tile_blocks = ceil_div(blocks, tiles);
    plan.tile_width = tile_blocks * block;
    plan.workers = static_cast<int>(std::min(workers, rows * ceil_div(blocks, tile_blocks)));
    plan.slab = slab_bytes(grad_input_scratch(kernel, config, plan.tile_width));
    return plan;
}

GradWeightPlan plan_grad_weight(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t batch,
                                std::int64_t largest, std::int64_t width, int threads) {
    GradWeightPlan plan{};
    plan.width_out = width_out(config, width);
    const std::int64_t channels = channels_in_cache(kernel, config);
    plan.tile_width = grad_weight_tile(kernel, config, plan.width_out, channels);
    const std::int64_t prepared = prepared_input(kernel, config, plan, width);
    if (kernel.tables > 0 && prepared > max_elements) {
        throw_invalid("width", std::to_string(width),
                      "the table indexes of one sample must have at most " + std::to_string(max_elements) + " bytes");
    }
    const std::int64_t quantized = quantized_bytes(config, width);
    plan.samples = samples_in_cache(prepared + quantized, std::min(batch, largest));
    plan.input = align_up(static_cast<std::size_t>(quantized * plan.samples));

    const std::int64_t rows = ceil_div(out_in_group(config), kernel.out_block) * config.groups;
    const std::int64_t workers = worthwhile_workers(kernel, config, plan.samples, width, threads, 0);
    const std::int64_t blocks = ceil_div(channels_in_group(config), channel_block(kernel));
    std::int64_t tiles = ceil_div(channels_in_group(config), channels);
    if (workers > 1) tiles = choose_tiles(tiles, blocks, rows, workers);
    plan.tile_channels = ceil_div(blocks, tiles) * channel_block(kernel);
    plan.workers = static_cast<int>(std::min(workers, rows * ceil_div(channels_in_group(config), plan.tile_channels)));
    plan.slab = slab_bytes(grad_weight_scratch(kernel, config, plan));
    plan.extra = align_up(static_cast<std::size_t>(prepared * plan.samples));
    if (kernel.tables > 0) { // tap and channel of each weight
        plan.extra += 2 * align_up(static_cast<std::size_t>(window_elements(config)) * sizeof(std::int32_t));
    }
    if (plan.samples < batch) {
        plan.sums = align_up(static_cast<std::size_t>(config.out_channels * window_elements(config) * float_bytes));
    }
    return plan;
}

} // namespace qconv
