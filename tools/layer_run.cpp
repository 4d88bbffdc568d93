#include "tools/layer_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "tools/directions.h"
#include "tools/errors.h"

namespace qconv::tools {
namespace {

constexpr std::align_val_t kWorkspaceAlignment{64};
// Behind the workspace, to tell a kernel whose scratch was counted too small.
constexpr std::size_t kGuardBytes = 4 << 20;
constexpr std::byte kGuard{0xa5};

std::size_t elements(int64_t a, int64_t b, int64_t c) {
    return static_cast<std::size_t>(a * b * c);
}

} // namespace

void check(qconv_status status, const std::string &what) {
    if (status == QCONV_OK) return;
    const bool input = status == QCONV_INVALID_ARGUMENT || status == QCONV_NO_KERNEL;
    throw Error(input ? kExitInput : kExitEnvironment, fmt::format("{}: {}", what, qconv_last_error()));
}

void LayerRun::Free::operator()(std::byte *memory) const {
    ::operator delete(memory, kWorkspaceAlignment);
}

LayerRun::LayerRun(const qconv_layer_config &config, const LayerData &data, std::string what)
    : config_(config), data_(data), what_(std::move(what)) {
    qconv_layer *layer = nullptr;
    check(qconv_layer_create(&config_, data_.weight.data(), data_.bias_or_null(), &layer), what_);
    layer_.reset(layer);
    check(qconv_layer_width_out(layer, data_.width, &width_out_), what_);
    if (config_.directions & QCONV_FORWARD) y_.resize(elements(data_.batch, config_.out_channels, width_out_));
    if (config_.directions & QCONV_GRAD_INPUT) grad_input_.resize(data_.x.size());
    if (config_.directions & QCONV_GRAD_WEIGHT) {
        grad_weight_.resize(data_.weight.size());
        if (config_.kind == QCONV_LAYER_CONV1D) grad_bias_.resize(elements(config_.out_channels, 1, 1));
    }
    if (saved() == QCONV_SAVES_STATE) {
        std::size_t bytes = 0;
        check(qconv_layer_state_size(layer, data_.batch, data_.width, &bytes), what_);
        state_.resize(bytes / sizeof(uint32_t));
    }
    resize_workspace();
}

void LayerRun::resize_workspace() {
    std::size_t forward = 0, training = 0;
    if (config_.directions & QCONV_FORWARD)
        check(qconv_layer_workspace_size(layer_.get(), data_.batch, data_.width, &forward), what_);
    if (trains()) check(qconv_layer_training_workspace_size(layer_.get(), data_.batch, data_.width, &training), what_);
    workspace_bytes_ = std::max(forward, training);
    workspace_.reset(static_cast<std::byte *>(::operator new(workspace_bytes_ + kGuardBytes, kWorkspaceAlignment)));
    std::fill_n(workspace_.get() + workspace_bytes_, kGuardBytes, kGuard);
}

std::string LayerRun::workspace_problem() const {
    const std::byte *guard = workspace_.get() + workspace_bytes_;
    // Every byte is as the one before it.
    if (guard[0] == kGuard && std::memcmp(guard, guard + 1, kGuardBytes - 1) == 0) return "";
    return fmt::format("it wrote behind its workspace of {} bytes", workspace_bytes_);
}

void LayerRun::forward() {
    check(qconv_layer_forward(layer_.get(), data_.x.data(), data_.batch, data_.width, y_.data(), workspace_.get(),
                              workspace_bytes_),
          what_);
}

void LayerRun::forward_training() {
    check(qconv_layer_forward_training(layer_.get(), data_.x.data(), data_.batch, data_.width, y_.data(), state_.data(),
                                       state_bytes(), workspace_.get(), workspace_bytes_),
          what_);
}

void LayerRun::backward(Gradients wanted) {
    // The layer must do with what it says it saves.
    const float *x = saved() == QCONV_SAVES_INPUT ? data_.x.data() : nullptr;
    check(qconv_layer_backward(layer_.get(), x, state_.data(), state_bytes(), data_.grad_output.data(), data_.batch,
                               data_.width, wanted.input ? grad_input_.data() : nullptr,
                               wanted.weight ? grad_weight_.data() : nullptr, wanted.bias ? grad_bias_.data() : nullptr,
                               workspace_.get(), workspace_bytes_),
          what_);
}

void LayerRun::set_weights() {
    check(qconv_layer_set_weights(layer_.get(), data_.weight.data(), data_.bias_or_null()), what_);
}

void LayerRun::spoil() {
    for (std::vector<float> *output : {&y_, &grad_input_, &grad_weight_, &grad_bias_})
        std::fill(output->begin(), output->end(), std::nanf(""));
    std::fill(state_.begin(), state_.end(), ~uint32_t{0});
}

double LayerRun::macs() const {
    const int64_t channels = config_.in_channels / config_.groups;
    return static_cast<double>(data_.batch) * static_cast<double>(config_.out_channels) *
           static_cast<double>(channels) * static_cast<double>(config_.kernel_size) * static_cast<double>(width_out_);
}

const qconv_kernel &LayerRun::kernel(qconv_op op) const {
    return *qconv_layer_kernel(layer_.get(), direction_of(op));
}

} // namespace qconv::tools
