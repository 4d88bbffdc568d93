#include "workspace.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "arithmetic.h"
#include "config.h"
#include "memory.h"
#include "qconv/layout.h"

namespace qconv {
namespace {

constexpr int max_live = 30; // blocks of one slab at once; kernels hold a handful

std::atomic<std::uint64_t> fallbacks{0};

// Which worker of which call this thread is.
thread_local CallContext *current_context = nullptr;
thread_local int current_worker = 0;
// The call whose kernels this thread runs, as a worker or not.
thread_local CallContext *current_call = nullptr;

void *fall_back(std::size_t bytes) noexcept {
    fallbacks.fetch_add(1, std::memory_order_relaxed);
    return try_allocate(bytes);
}

// Positions from the first tap to the last that a kernel reads: words that join taps reach past the kernel's end.
std::int64_t scratch_span(const qconv_kernel &kernel, const qconv_layer_config &config) {
    if (kernel.word_bits == 0) return tap_span(config);
    const std::int64_t joined = word_taps(kernel);
    return (ceil_div(config.kernel_size, joined) * joined - 1) * config.dilation;
}

} // namespace

// What the input stages of the generators take, each held in full for one task.
std::int64_t scratch_per_position(const qconv_kernel &kernel, const qconv_layer_config &config) {
    const std::int64_t channels = channels_in_group(config);
    const std::int64_t word_bytes = kernel.word_bits / 8;
    // Kernels for any stride keep a copy of the last stage, split by phase.
    const std::int64_t copies = kernel.unit_stride != 0 ? 1 : 2;
    if (kernel.word_bits > 0) {
        const bool joins_taps = word_taps(kernel) > 1;
        const std::int64_t rows = joins_taps ? 1 : ceil_div(channels, kernel.word_channels);
        if (kernel.path == QCONV_PATH_INT8) {
            constexpr std::int64_t window_sums = 8;
            return channels + rows * word_bytes + window_sums;
        }
        const std::int64_t levels = kernel.input_planes > 1 ? channels : 0;
        if (across_outputs(kernel)) {
            constexpr std::int64_t lanes = 64; // channels at once, at most: each a byte, then a bit
            return ceil_div(channels, lanes) * lanes + rows;
        }
        // Words that join taps are doubled from narrower ones, and kept with and without the taps past the end: at most
        // eight times a word in all.
        if (kernel.vector_words > 1) {
            // Every output position has the words of its window beside those of its input position.
            const PackedShape shape = packed_shape(kernel, channels, out_in_group(config), config.kernel_size);
            const std::int64_t window = ceil_div(shape.vectors * kernel.vector_words, config.stride);
            return levels + kernel.input_planes * word_bytes * ((joins_taps ? 8 : rows) + window);
        }
        return levels + kernel.input_planes * word_bytes * (joins_taps ? 8 : rows * copies);
    }
    constexpr std::int64_t float_bytes = sizeof(float);
    if (kernel.group_block > 1) return 2 * float_bytes * kernel.group_block; // along positions and turned
    const std::int64_t multiple = kernel.tables > 0 ? std::int64_t{kernel.tables} * kernel.table_channels : 1;
    return ceil_div(channels, multiple) * multiple * copies * float_bytes;
}

// Positions of a tile come with slack for whole vectors and width blocks, in every phase of the stride.
std::size_t scratch_bytes(const qconv_kernel &kernel, const qconv_layer_config &config, std::int64_t tile_width) {
    const std::int64_t block = kernel.width_block;
    const std::int64_t span = scratch_span(kernel, config);
    const std::int64_t positions = (tile_width + 2 * block + 128) * config.stride + span + 256;
    constexpr std::int64_t small_stages = std::int64_t{16} * 1024;
    std::int64_t bytes = positions * scratch_per_position(kernel, config) + small_stages;
    if (kernel.tables > 0) {
        // Lookup tables of one block of positions, and the sums of all output channels there.
        const std::int64_t table = (block + 64) * config.stride + span + 64;
        const std::int64_t entries = std::int64_t{kernel.tables} << kernel.table_channels;
        bytes += (entries * table + (block + 64) * out_in_group(config)) * std::int64_t{sizeof(float)};
    }
    if (kernel.path == QCONV_PATH_INT8 && kernel.out_block > 1) {
        // The words that the positions of a strip meet.
        const PackedShape shape =
            packed_shape(kernel, channels_in_group(config), out_in_group(config), config.kernel_size);
        bytes += shape.steps * shape.rows * block * (kernel.word_bits / 8);
    }
    // Kernels for any stride look up where each tap falls: a column and a phase, both int32.
    if (kernel.unit_stride == 0) bytes += 2 * config.kernel_size * std::int64_t{sizeof(std::int32_t)};
    return static_cast<std::size_t>(bytes);
}

// Lies at the start of its memory. Blocks are kept as offsets from there; a block is as long as the way to the next.
struct CallContext::Slab {
    std::uint32_t live;
    std::size_t top;
    std::array<std::size_t, max_live> blocks; // multiples of the alignment; bit 0 is set once the block is freed
};

std::size_t slab_bytes(std::size_t scratch) {
    constexpr std::size_t header = align_up(sizeof(std::size_t) * (max_live + 2));
    return header + align_up(scratch);
}

CallContext::CallContext(void *workspace, std::size_t slab, int workers, std::size_t extra)
    : base_(static_cast<std::byte *>(workspace)),
      first_bytes_(slab + extra),
      slab_bytes_(slab),
      workers_(workers),
      previous_call_(std::exchange(current_call, this)) {
    error_[0] = '\0';
    for (std::size_t i = 0; i < static_cast<std::size_t>(workers); ++i) {
        Slab *header = new (slab_start(i)) Slab;
        header->live = 0;
        header->top = slab_bytes(0);
    }
}

CallContext::~CallContext() {
    current_call = previous_call_;
}

CallContext *CallContext::from(void *user_context) noexcept {
    return user_context == current_call ? current_call : nullptr;
}

std::byte *CallContext::slab_start(std::size_t index) const {
    return base_ + (index == 0 ? 0 : first_bytes_ + (index - 1) * slab_bytes_);
}

CallContext::Slab &CallContext::slab(std::size_t index) const {
    return *std::launder(reinterpret_cast<Slab *>(slab_start(index)));
}

void *CallContext::allocate(std::size_t bytes) noexcept {
    const int worker = on_worker() ? current_worker : 0;
    Slab &slab = this->slab(static_cast<std::size_t>(worker));
    const std::size_t end = worker == 0 ? first_bytes_ : slab_bytes_;
    if (slab.live == max_live || bytes > end - slab.top) return fall_back(bytes);
    const std::size_t start = slab.top;
    slab.top = std::min(start + align_up(std::max<std::size_t>(bytes, 1)), end);
    slab.blocks[slab.live++] = start;
    return reinterpret_cast<std::byte *>(&slab) + start;
}

void CallContext::release(void *memory) noexcept {
    if (memory == nullptr) return;
    const std::uintptr_t distance = reinterpret_cast<std::uintptr_t>(memory) - reinterpret_cast<std::uintptr_t>(base_);
    const std::size_t index = distance < first_bytes_ ? 0 : (distance - first_bytes_) / slab_bytes_ + 1;
    if (index >= static_cast<std::size_t>(workers_)) { // also when the block lies below the workspace
        qconv::release(memory);
        return;
    }
    Slab &slab = this->slab(index);
    const auto start = static_cast<std::size_t>(static_cast<std::byte *>(memory) - slab_start(index));
    for (std::uint32_t i = slab.live; i > 0; --i) {
        if (slab.blocks[i - 1] != start) continue;
        slab.blocks[i - 1] |= 1U;
        break;
    }
    while (slab.live > 0 && (slab.blocks[slab.live - 1] & 1U) != 0)
        slab.top = slab.blocks[--slab.live] & ~std::size_t{1};
}

void CallContext::record_error(const char *text) noexcept {
    if (failed_.exchange(true)) return;
    const std::size_t length = std::min(std::strlen(text), error_.size() - 1);
    std::memcpy(error_.data(), text, length);
    error_[length] = '\0';
}

CallContext::WorkerScope::WorkerScope(CallContext *context, int worker) noexcept
    : previous_context_(current_context), previous_call_(current_call), previous_worker_(current_worker) {
    current_context = context;
    current_call = context;
    current_worker = worker;
}

CallContext::WorkerScope::~WorkerScope() {
    current_context = previous_context_;
    current_call = previous_call_;
    current_worker = previous_worker_;
}

bool CallContext::on_worker() const noexcept {
    return current_context == this;
}

std::uint64_t workspace_fallbacks() noexcept {
    return fallbacks.load(std::memory_order_relaxed);
}

} // namespace qconv
