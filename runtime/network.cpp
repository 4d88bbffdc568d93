#include "network.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "cpu_features.h"
#include "errors.h"
#include "qconv/layout.h"
#include "quantize.h"
#include "registry.h"
#include "select.h"
#include "threads.h"

namespace {

using qconv::Workspace;

// Whether the input quantizer scales by the largest element.
bool sees_whole_tensor(const qconv_layer_config &config) {
    const qconv::MixedQuantizer input = qconv::input_quantizer(config);
    return input.first.kind == QCONV_WEIGHTDOREFA || (input.mix != 0 && input.next.kind == QCONV_WEIGHTDOREFA);
}

// Whether packed signs may enter the layer, and whether that is cheaper than floats: words of few channels hold mostly
// nothing.
bool takes_bits(const qconv_layer_config &config) {
    const qconv::Representation input = qconv::input_representation(config);
    if (config.kind != QCONV_LAYER_QCONV1D || input.bits != 1) return false;
    const qconv::CpuFeatures features = qconv::cpu_features();
    const qconv_kernel *bits = qconv::find_kernel(config, QCONV_OP_BITS_TO_FLOAT, features);
    if (bits == nullptr || qconv::find_kernel(config, QCONV_OP_TO_BITS, features) == nullptr) return false;
    const qconv_kernel *floats = qconv::find_kernel(config, QCONV_OP_FORWARD, features);
    return floats == nullptr || qconv::estimate_cost(*bits, config) <= qconv::estimate_cost(*floats, config);
}

// Each layer's configuration, checked, for the forward pass alone.
std::vector<qconv_network_layer> checked(std::span<const qconv_network_layer> layers) {
    if (layers.empty()) qconv::throw_invalid("count", "0", "a network has at least one layer");
    std::vector<qconv_network_layer> result(layers.begin(), layers.end());
    for (std::size_t i = 0; i < result.size(); ++i) {
        qconv_layer_config &config = result[i].config;
        const std::string where = "layers[" + std::to_string(i) + "].";
        config.directions = QCONV_FORWARD;
        try {
            qconv::check_config(config);
            qconv::check_weights(config, result[i].weight, result[i].bias);
        } catch (const qconv::Error &error) {
            throw qconv::Error(error.status(), where + error.what());
        }
        if (i == 0 || config.in_channels == result[i - 1].config.out_channels) continue;
        qconv::throw_invalid(
            where + "in_channels", std::to_string(config.in_channels),
            "it must be the out_channels of the layer before, " + std::to_string(result[i - 1].config.out_channels));
    }
    return result;
}

} // namespace

qconv_network::qconv_network(std::span<const qconv_network_layer> layers) {
    const std::vector<qconv_network_layer> all = checked(layers);
    qconv::install_halide_hooks();
    layers_.reserve(all.size());
    bool from_bits = takes_bits(all.front().config);
    if (from_bits) {
        const qconv_layer_config &config = all.front().config;
        to_bits_ = &qconv::select_kernel(config, QCONV_OP_TO_BITS, qconv::cpu_features());
        rule_ = qconv::make_rule(config.in_channels, {}, qconv::input_step(config));
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
        const qconv_layer_config *next = i + 1 < all.size() ? &all[i + 1].config : nullptr;
        whole_batch_ = whole_batch_ || sees_whole_tensor(all[i].config);
        const bool to_bits = next != nullptr && takes_bits(*next);
        try {
            layers_.emplace_back(all[i], from_bits, to_bits ? next : nullptr);
        } catch (const qconv::Error &error) {
            throw qconv::Error(error.status(), "layers[" + std::to_string(i) + "]: " + error.what());
        }
        from_bits = to_bits;
    }
}

// How a call cuts its memory: two tensors between layers, floats on the way to signs, scratch of the kernels.
struct qconv_network::Layout {
    std::int64_t samples; // run through all layers together
    std::size_t link, floats, scratch;

    std::size_t workspace() const { return 2 * link + floats + scratch; }
};

std::int64_t qconv_network::width_out(std::int64_t width) const {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        try {
            width = qconv::width_out(layers_[i].config(), width);
        } catch (const qconv::Error &error) {
            throw qconv::Error(error.status(), "layers[" + std::to_string(i) + "]: " + error.what());
        }
    }
    return width;
}

std::int64_t qconv_network::largest_tensor(std::int64_t width) const {
    std::int64_t elements = layers_.front().config().in_channels * width;
    std::int64_t at = width;
    for (const qconv::NetworkStage &layer : layers_) {
        at = qconv::width_out(layer.config(), at);
        elements = std::max(elements, layer.config().out_channels * at);
    }
    if (elements > qconv::max_elements) {
        qconv::throw_invalid("width", std::to_string(width),
                             "one sample of every tensor must have at most " + std::to_string(qconv::max_elements) +
                                 " elements; the largest has " + std::to_string(elements));
    }
    return elements;
}

qconv_network::Layout qconv_network::layout_of(qconv::CallSize size) const {
    Layout result{.samples = size.batch, .link = 0, .floats = 0, .scratch = 0};
    std::int64_t channels = layers_.front().config().in_channels;
    if (to_bits_ != nullptr) {
        result.link = qconv::align_up(qconv::sign_bytes(size.batch, channels, size.width));
        result.scratch = qconv::ToBitsPlan(size.batch, channels, size.width, size.threads).workspace();
    }
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        const qconv::NetworkStage &layer = layers_[i];
        result.floats = std::max(result.floats, layer.float_bytes(size));
        result.scratch = std::max(result.scratch, layer.scratch_bytes(size));
        if (i + 1 == layers_.size()) break;
        size.width = qconv::width_out(layer.config(), size.width);
        channels = layer.config().out_channels;
        const std::size_t bytes = layers_[i + 1].from_bits()
                                      ? qconv::sign_bytes(size.batch, channels, size.width)
                                      : static_cast<std::size_t>(size.batch * channels * size.width) * sizeof(float);
        result.link = std::max(result.link, qconv::align_up(bytes));
    }
    return result;
}

qconv_network::Layout qconv_network::layout(const qconv::CallSize &size) const {
    qconv::check_batch(size.batch);
    (void)width_out(size.width);
    const std::int64_t most = qconv::max_elements / largest_tensor(size.width);
    const std::int64_t batch = std::max<std::int64_t>(size.batch, 1);
    if (whole_batch_) {
        if (batch > most) {
            qconv::throw_invalid(
                "batch", std::to_string(batch),
                "a quantizer of this network needs to see all of it; of this width it must be at most " +
                    std::to_string(most));
        }
        return layout_of({batch, size.width, size.threads});
    }
    // As many samples as keep the tensors between layers in cache, and every thread busy.
    constexpr std::size_t in_cache = std::size_t{1} << 20;
    const Layout one = layout_of({1, size.width, size.threads});
    const auto cached = static_cast<std::int64_t>(in_cache / std::max<std::size_t>(2 * one.link + one.floats, 1));
    const std::int64_t wanted = std::max<std::int64_t>(cached, size.threads);
    const std::int64_t samples = std::min({batch, wanted, most});
    Layout result = layout_of({samples, size.width, size.threads});
    // Fewer samples may be cut into wider tiles.
    if (const std::int64_t rest = batch % samples; rest != 0) {
        const Layout last = layout_of({rest, size.width, size.threads});
        result.link = std::max(result.link, last.link);
        result.floats = std::max(result.floats, last.floats);
        result.scratch = std::max(result.scratch, last.scratch);
    }
    return result;
}

std::size_t qconv_network::workspace_size(std::int64_t batch, std::int64_t width) const {
    return layout({batch, width, qconv::num_threads()}).workspace();
}

void qconv_network::forward(const float *x, std::int64_t batch, std::int64_t width, float *y,
                            Workspace workspace) const {
    const int threads = qconv::num_threads();
    const Layout layout = this->layout({batch, width, threads});
    if (batch == 0) return;
    qconv::require_pointer(x, "x");
    qconv::require_pointer(y, "y");
    const qconv::WorkspaceLease lease(workspace.data, workspace.bytes, layout.workspace());
    const std::int64_t inputs = layers_.front().config().in_channels * width;
    const std::int64_t outputs = layers_.back().config().out_channels * width_out(width);
    for (std::int64_t done = 0; done < batch; done += layout.samples) {
        run(layout, x + done * inputs, {std::min(layout.samples, batch - done), width, threads}, y + done * outputs,
            static_cast<std::byte *>(lease.data()));
    }
}

void qconv_network::run(const Layout &layout, const float *x, qconv::CallSize size, float *y, std::byte *memory) const {
    std::byte *links[2] = {memory, memory + layout.link};
    auto *floats = reinterpret_cast<float *>(memory + 2 * layout.link);
    const Workspace scratch{memory + 2 * layout.link + layout.floats, layout.scratch};
    const void *input = x;
    std::size_t free_link = 0;
    if (to_bits_ != nullptr) {
        const std::int64_t channels = layers_.front().config().in_channels;
        auto *signs = reinterpret_cast<std::uint32_t *>(links[free_link]);
        const qconv::ToBitsPlan plan(size.batch, channels, size.width, size.threads);
        qconv::call_to_bits(*to_bits_, rule_, plan, x, size.batch, channels, size.width, signs, scratch.data);
        input = signs;
        free_link = 1;
    }
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        void *output = i + 1 == layers_.size() ? static_cast<void *>(y) : links[free_link];
        layers_[i].forward(input, size, output, floats, scratch);
        size.width = qconv::width_out(layers_[i].config(), size.width);
        input = output;
        free_link = 1 - free_link;
    }
}
