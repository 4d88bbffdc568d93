#include "layer.h"

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "cpu_features.h"
#include "errors.h"
#include "forward.h"
#include "quantize.h"
#include "registry.h"
#include "threads.h"
#include "workspace.h"

namespace qconv {

Memory WorkspacePool::take(std::size_t bytes) {
    Memory memory;
    {
        const std::lock_guard lock(mutex_);
        // Room for everything that may come back, so that giving back cannot fail.
        idle_.reserve(idle_.size() + taken_ + 1);
        if (!idle_.empty()) {
            memory = std::move(idle_.back());
            idle_.pop_back();
        }
        ++taken_;
    }
    try {
        if (memory.bytes() < bytes) memory = Memory(bytes);
    } catch (...) {
        const std::lock_guard lock(mutex_);
        --taken_;
        throw;
    }
    return memory;
}

void WorkspacePool::give_back(Memory memory) noexcept {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(memory));
    --taken_;
}

namespace {

// A workspace for one call: the caller's, or one of the layer's own.
class WorkspaceLease {
public:
    WorkspaceLease(WorkspacePool &pool, void *given, std::size_t given_bytes, std::size_t bytes)
        : pool_(pool), given_(given) {
        if (given == nullptr) {
            owned_ = pool.take(bytes);
            return;
        }
        if (reinterpret_cast<std::uintptr_t>(given) % memory_alignment != 0) {
            throw Error(QCONV_INVALID_ARGUMENT, "workspace is not aligned to 64 bytes");
        }
        if (given_bytes < bytes) {
            throw Error(QCONV_WORKSPACE_TOO_SMALL, "workspace_bytes is " + std::to_string(given_bytes) +
                                                       "; this call needs " + std::to_string(bytes));
        }
    }
    WorkspaceLease(const WorkspaceLease &) = delete;
    WorkspaceLease &operator=(const WorkspaceLease &) = delete;
    ~WorkspaceLease() {
        if (given_ == nullptr) pool_.give_back(std::move(owned_));
    }

    void *data() const { return given_ != nullptr ? given_ : owned_.data(); }

private:
    WorkspacePool &pool_;
    void *given_;
    Memory owned_;
};

void check_batch(std::int64_t batch) {
    if (batch < 0 || batch > max_elements) {
        throw_invalid("batch", std::to_string(batch), "it must be 0.." + std::to_string(max_elements));
    }
}

// Samples that one kernel call may take: kernels index a buffer's elements in int32.
std::int64_t largest_batch(const qconv_layer_config &config, std::int64_t width, std::int64_t width_out) {
    if (width > max_elements / config.in_channels || width_out > max_elements / config.out_channels) {
        throw_invalid("width", std::to_string(width),
                      "one sample of x and one of y must have at most " + std::to_string(max_elements) + " elements");
    }
    return max_elements / std::max(width * config.in_channels, width_out * config.out_channels);
}

std::span<const float> as_span(const float *data, std::int64_t elements) {
    return {data, data == nullptr ? 0 : static_cast<std::size_t>(elements)};
}

} // namespace

void DestroyLayer::operator()(qconv_layer *layer) const noexcept {
    layer->~qconv_layer();
    release(layer);
}

LayerPointer create_layer(const qconv_layer_config &config, const float *weight, const float *bias) {
    require_pointer(weight, "weight");
    check_config(config);
    if (bias != nullptr && config.kind != QCONV_LAYER_CONV1D) {
        throw Error(QCONV_INVALID_ARGUMENT, "bias is for conv1d only; it must be NULL for the quantized layers");
    }
    install_halide_hooks();
    Memory memory(sizeof(qconv_layer));
    LayerPointer layer(new (memory.data()) qconv_layer(config, weight, bias));
    memory.disown();
    return layer;
}

} // namespace qconv

qconv_layer::qconv_layer(const qconv_layer_config &config, const float *weight, const float *bias)
    : config_(config),
      kernel_(&qconv::select_kernel(config, QCONV_OP_FORWARD, qconv::cpu_features())),
      input_(qconv::input_quantizer(config)),
      packed_(qconv::pack_layer(*kernel_, config,
                                qconv::as_span(weight, config.out_channels * qconv::window_elements(config)),
                                qconv::as_span(bias, config.out_channels))) {
    config_.kernel = nullptr; // the caller's string need not live on
}

qconv::Plan qconv_layer::plan(std::int64_t batch, std::int64_t width) const {
    const std::int64_t largest = qconv::largest_batch(config_, width, width_out(width));
    return qconv::make_plan(*kernel_, config_, std::min(batch, largest), width, qconv::num_threads());
}

std::size_t qconv_layer::workspace_size(std::int64_t batch, std::int64_t width) const {
    qconv::check_batch(batch);
    return plan(std::max<std::int64_t>(batch, 1), width).workspace();
}

void qconv_layer::forward(const float *x, std::int64_t batch, std::int64_t width, float *y, void *workspace,
                          std::size_t workspace_bytes) const {
    qconv::check_batch(batch);
    const std::int64_t outputs = config_.out_channels * width_out(width);
    const std::int64_t inputs = config_.in_channels * width;
    const std::int64_t largest = qconv::largest_batch(config_, width, width_out(width));
    if (batch == 0) return;
    qconv::require_pointer(x, "x");
    qconv::require_pointer(y, "y");

    const qconv::Plan plan = this->plan(batch, width);
    const qconv::WorkspaceLease lease(pool_, workspace, workspace_bytes, plan.workspace());
    const std::span<const float> values(x, static_cast<std::size_t>(batch * inputs));
    const float divisor = qconv::quantizer_divisor(input_.first, values);
    const float next_divisor = input_.mix == 0 ? divisor : qconv::quantizer_divisor(input_.next, values);
    for (std::int64_t done = 0; done < batch; done += largest) {
        qconv::CallContext context(lease.data(), plan.slab, plan.workers);
        const qconv::ForwardInput input{.x = x + done * inputs,
                                        .y = y + done * outputs,
                                        .batch = std::min(largest, batch - done),
                                        .width = width,
                                        .divisor = divisor,
                                        .next_divisor = next_divisor};
        qconv::call_forward(*kernel_, config_, packed_, input_, plan, input, context);
    }
}
