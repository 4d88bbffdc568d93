// Sequences of C calls on up to four layers and a network, with arguments that are valid, nearly valid and wild. Every
// buffer has exactly the size that the ABI asks for, so that the address sanitizer, which instruments the kernels too,
// sees the first byte outside. Every failure must have a message and leave the outputs as they were.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "bytes.h"
#include "qconv/qconv.h"

namespace {

using qconv::fuzz::Bytes;

constexpr int kLayers = 4;
constexpr int64_t kMostProducts = 300'000; // of one call, so that many calls fit into a second

struct Slot {
    qconv_layer *layer = nullptr;
    qconv_layer_config config{};
    std::vector<float> weight, bias;
};

void require(bool condition) {
    if (!condition) std::abort();
}

/// Failures say why; nothing but a defect is an internal error.
bool accepted(qconv_status status) {
    if (status == QCONV_OK) return true;
    require(status != QCONV_INTERNAL);
    require(*qconv_last_error() != '\0');
    return false;
}

int64_t wild(Bytes &data) {
    constexpr int64_t limits[] = {0,       -1,      1,         7,         1 << 16,   (1 << 16) + 1,
                                  1 << 24, 1 << 30, INT32_MAX, INT64_MAX, INT64_MIN, int64_t{1} << 40};
    return data.coin() ? data.pick(limits) : data.any<int64_t>();
}

/// Mostly low..most.
int64_t extent(Bytes &data, int64_t most, int64_t low = 1) {
    return data.once_in(64) ? wild(data) : data.range(low, most);
}

std::vector<float> numbers(Bytes &data, int64_t count) {
    constexpr float special[] = {0.0F, -0.0F, 1.0F, 0.5F, -1.0F, 1e-40F, INFINITY, -INFINITY, NAN, 3e38F};
    std::vector<float> values(static_cast<size_t>(count));
    uint32_t state = data.any<uint32_t>();
    const bool specials = data.coin();
    for (float &value : values) {
        state = state * 1664525U + 1013904223U;
        const bool plain = !specials || state >> 28 != 0;
        value =
            plain ? static_cast<float>(state >> 8) / 8388608.0F - 1.0F : special[(state >> 20) % std::size(special)];
    }
    return values;
}

qconv_quantizer quantizer(Bytes &data) {
    const auto kind = static_cast<qconv_quantizer_kind>(data.range(0, QCONV_QUANTIZER_KINDS));
    qconv_quantizer result = qconv_quantizer_default(kind);
    result.bits = static_cast<int32_t>(data.range(data.once_in(16) ? 0 : 1, data.once_in(16) ? 9 : 8));
    result.scale = data.fraction();
    result.training = data.coin();
    return result;
}

qconv_layer_config config(Bytes &data) {
    qconv_layer_config c;
    qconv_layer_config_init(
        &c, static_cast<qconv_layer_kind>(data.range(0, data.once_in(32) ? QCONV_LAYER_KINDS : QCONV_LAYER_KINDS - 1)));
    c.groups = extent(data, 4);
    c.in_channels = extent(data, 40);
    c.out_channels = extent(data, 40);
    if (c.groups >= 1 && c.groups <= 4 && !data.once_in(16)) {
        c.in_channels = std::clamp<int64_t>(c.in_channels, 1, 40) * c.groups;
        c.out_channels = std::clamp<int64_t>(c.out_channels, 1, 40) * c.groups;
    }
    c.kernel_size = extent(data, 9);
    c.stride = extent(data, 4);
    c.dilation = extent(data, 4);
    c.pad_left = extent(data, 7, 0);
    c.pad_right = extent(data, 7, 0);
    if (data.coin()) qconv_layer_config_pad_same(&c);
    if (c.kind != QCONV_LAYER_CONV1D && data.coin()) c.pad_value = data.any<float>();
    if (data.coin()) {
        c.input_quantization = quantizer(data), c.weight_quantization = quantizer(data);
        c.input_next = quantizer(data), c.weight_next = quantizer(data);
        if (data.coin()) c.input_mix = data.fraction() * 1.01F;
        if (data.coin()) c.weight_mix = data.fraction();
    }
    if (data.coin()) c.gradient_cancellation_threshold = data.any<float>();
    c.directions = static_cast<uint32_t>(data.once_in(16) ? data.range(0, 8) : data.range(1, 7));
    return c;
}

void create(Bytes &data, Slot &slot) {
    qconv_layer_destroy(slot.layer);
    slot = {};
    slot.config = config(data);
    const qconv_layer_config &c = slot.config;
    const bool good = qconv_layer_config_check(&c) == QCONV_OK;
    const int64_t per_output = good ? c.in_channels / c.groups * c.kernel_size : 1;
    if (good && per_output * c.out_channels > 1'000'000) return; // accepted, but too large to fuzz with
    if (good) slot.weight = numbers(data, per_output * c.out_channels);
    if (good && data.coin()) slot.bias = numbers(data, c.out_channels);
    // Names live on the stack of this call only: the layer must not keep them.
    constexpr const char *names[] = {"@avx512_zen4", "@sse41", "@", "b1b1_w32_c32_s1", "no such kernel", ""};
    const std::string forward(data.pick(names)), grad_input(data.pick(names));
    if (data.once_in(8)) slot.config.kernel = forward.c_str();
    if (data.once_in(8)) slot.config.grad_input_kernel = grad_input.c_str();
    const float *bias = slot.bias.empty() ? nullptr : slot.bias.data();
    const float *weight = slot.weight.empty() ? nullptr : slot.weight.data();
    qconv_layer *const untouched = reinterpret_cast<qconv_layer *>(&slot);
    qconv_layer *layer = untouched;
    if (accepted(qconv_layer_create(&slot.config, weight, bias, &layer))) {
        require(good);
        slot.layer = layer;
    } else {
        require(layer == untouched);
    }
    slot.config.kernel = slot.config.grad_input_kernel = nullptr;
}

struct Size {
    int64_t batch, width, width_out;
};

/// Sizes that the layer accepts and that are small enough to run.
bool size(Bytes &data, const Slot &slot, Size &size) {
    size.batch = extent(data, 2, 0);
    size.width = extent(data, 80);
    size_t bytes = 0;
    const bool forward = (slot.config.directions & QCONV_FORWARD) != 0;
    const bool fits = accepted(qconv_layer_width_out(slot.layer, size.width, &size.width_out));
    const bool sized = forward && accepted(qconv_layer_workspace_size(slot.layer, size.batch, size.width, &bytes));
    require(!sized || fits);
    if (forward) accepted(qconv_layer_training_workspace_size(slot.layer, size.batch, size.width, &bytes));
    accepted(qconv_layer_state_size(slot.layer, size.batch, size.width, &bytes));
    if (!fits || size.batch < 0 || size.batch > 3 || size.width > 1000 || size.width_out > 1000) return false;
    const qconv_layer_config &c = slot.config;
    return c.out_channels * (c.in_channels / c.groups) * c.kernel_size * size.width_out <= kMostProducts;
}

/// 64-byte aligned memory of exactly so many bytes.
struct Scratch {
    void *memory = nullptr;
    explicit Scratch(size_t bytes) {
        if (posix_memalign(&memory, 64, std::max<size_t>(bytes, 1)) != 0) std::abort();
    }
    ~Scratch() { std::free(memory); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
};

void forward(Bytes &data, const Slot &slot) {
    Size s{};
    if (slot.layer == nullptr || !size(data, slot, s)) return;
    const std::vector<float> x = numbers(data, s.batch * slot.config.in_channels * s.width);
    std::vector<float> y(static_cast<size_t>(s.batch * slot.config.out_channels * s.width_out), 7.0F);
    size_t bytes = 0;
    const bool has = accepted(qconv_layer_workspace_size(slot.layer, s.batch, s.width, &bytes));
    const bool own = !has || data.coin();
    const size_t given = own ? 0 : bytes - std::min<size_t>(bytes, static_cast<size_t>(data.range(0, 1)));
    const Scratch scratch(given);
    if (!accepted(qconv_layer_forward(slot.layer, x.data(), s.batch, s.width, y.data(), own ? nullptr : scratch.memory,
                                      given))) {
        require(std::all_of(y.begin(), y.end(), [](float v) { return v == 7.0F; }));
        require(!has || given < bytes);
    }
}

void train(Bytes &data, const Slot &slot) {
    Size s{};
    if (slot.layer == nullptr || !size(data, slot, s)) return;
    const qconv_layer_config &c = slot.config;
    const std::vector<float> x = numbers(data, s.batch * c.in_channels * s.width);
    const std::vector<float> gy = numbers(data, s.batch * c.out_channels * s.width_out);
    std::vector<float> y(gy.size()), gx(x.size()), gw(slot.weight.size()), gb(static_cast<size_t>(c.out_channels));
    size_t state_bytes = 0;
    if (!accepted(qconv_layer_state_size(slot.layer, s.batch, s.width, &state_bytes))) return;
    const Scratch state(state_bytes);
    const bool saves_state = qconv_layer_saved(slot.layer) == QCONV_SAVES_STATE;
    const bool trained = accepted(qconv_layer_forward_training(slot.layer, x.data(), s.batch, s.width, y.data(),
                                                               state.memory, state_bytes, nullptr, 0));
    if (saves_state && !trained) std::memset(state.memory, data.any<uint8_t>(), state_bytes);
    const bool conv1d = c.kind == QCONV_LAYER_CONV1D;
    const auto maybe = [&](std::vector<float> &v) { return data.coin() ? v.data() : nullptr; };
    float *const grad_input = maybe(gx), *const grad_weight = maybe(gw),
                 *const grad_bias = conv1d ? maybe(gb) : nullptr;
    accepted(qconv_layer_backward(slot.layer, data.coin() ? x.data() : nullptr, state.memory, state_bytes, gy.data(),
                                  s.batch, s.width, grad_input, grad_weight, grad_bias, nullptr, 0));
}

struct Network {
    qconv_network *network = nullptr;
    int64_t in_channels = 0, out_channels = 0, products = 0; // products: most of a position
};

/// Whether a layer's weights are few enough to fuzz with; true for layers that are not accepted either.
bool small(const qconv_layer_config &c) {
    if (qconv_layer_config_check(&c) != QCONV_OK) return true;
    return c.in_channels / c.groups * c.kernel_size * c.out_channels <= 1'000'000;
}

void create_network(Bytes &data, Network &network) {
    qconv_network_destroy(network.network);
    network = {};
    const auto count = static_cast<size_t>(data.range(data.once_in(16) ? 0 : 1, 4));
    std::vector<std::vector<float>> buffers;
    const auto buffer = [&](int64_t elements) { return buffers.emplace_back(numbers(data, elements)).data(); };
    std::vector<qconv_network_layer> layers(count);
    bool good = count > 0;
    for (size_t i = 0; i < count; ++i) {
        qconv_network_layer &layer = layers[i];
        qconv_layer_config &c = layer.config;
        c = config(data);
        if (i > 0 && !data.once_in(16)) c.groups = 1, c.in_channels = layers[i - 1].config.out_channels;
        // Packed signs pass between layers of these.
        if (c.kind != QCONV_LAYER_CONV1D && data.coin()) {
            c.input_quantization = c.weight_quantization = qconv_quantizer_default(QCONV_SIGN);
            c.input_mix = c.weight_mix = 0;
        }
        if (!small(c)) return;
        const bool valid = qconv_layer_config_check(&c) == QCONV_OK;
        good = good && valid && (i == 0 || c.in_channels == layers[i - 1].config.out_channels);
        if (!valid) continue;
        const int64_t products = c.in_channels / c.groups * c.kernel_size * c.out_channels;
        network.products = std::max(network.products, products);
        layer.weight = buffer(products);
        if (c.kind == QCONV_LAYER_CONV1D && data.coin()) layer.bias = buffer(c.out_channels);
        if (data.coin()) layer.scale = buffer(c.out_channels);
        if (data.coin()) layer.shift = buffer(c.out_channels);
    }
    qconv_network *const untouched = reinterpret_cast<qconv_network *>(&network);
    qconv_network *created = untouched;
    if (!accepted(qconv_network_create(layers.data(), count, &created))) {
        require(created == untouched);
        return;
    }
    require(good);
    network.network = created;
    network.in_channels = layers.front().config.in_channels, network.out_channels = layers.back().config.out_channels;
    require(qconv_network_packed(created, count) == 0);
}

void run_network(Bytes &data, const Network &network) {
    const int64_t batch = extent(data, 2, 0), width = extent(data, 80);
    int64_t width_out = 0;
    size_t bytes = 0;
    const bool fits = accepted(qconv_network_width_out(network.network, width, &width_out));
    const bool sized = accepted(qconv_network_workspace_size(network.network, batch, width, &bytes));
    if (network.network == nullptr) {
        require(!fits && !sized);
        return;
    }
    require(!sized || fits);
    if (!sized || batch > 3 || width > 1000 || width_out > 1000 || bytes > 1'000'000) return;
    if (network.products * std::max(width, width_out) > 4 * kMostProducts) return;
    const std::vector<float> x = numbers(data, batch * network.in_channels * width);
    std::vector<float> y(static_cast<size_t>(batch * network.out_channels * width_out), 7.0F);
    const bool own = data.coin();
    const size_t given = own ? 0 : bytes - std::min<size_t>(bytes, static_cast<size_t>(data.range(0, 1)));
    const Scratch scratch(given);
    if (!accepted(qconv_network_forward(network.network, x.data(), batch, width, y.data(),
                                        own ? nullptr : scratch.memory, given))) {
        require(std::all_of(y.begin(), y.end(), [](float v) { return v == 7.0F; }));
        require(given < bytes);
    }
}

void fold_batch_norm(Bytes &data) {
    const int64_t channels = extent(data, 40);
    const bool some = channels >= 1 && channels <= 40;
    const std::vector<float> values = numbers(data, some ? 4 * channels : 0);
    const auto part = [&](int64_t index) { return some ? values.data() + index * channels : nullptr; };
    std::vector<float> scale(some ? static_cast<size_t>(channels) : 0), shift(scale);
    accepted(qconv_fold_batch_norm(channels, part(0), part(1), data.coin() ? part(2) : nullptr,
                                   data.coin() ? part(3) : nullptr, static_cast<double>(data.any<float>()),
                                   scale.data(), shift.data()));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    static const bool ready = [] {
        require(qconv_register_generic_kernels() == QCONV_OK);
        return qconv_set_num_threads(1) == QCONV_OK;
    }();
    require(ready);
    Bytes data(bytes, count);
    Slot slots[kLayers];
    Network network;
    for (int calls = 0; calls < 24 && data.left() > 0; ++calls) {
        Slot &slot = slots[data.range(0, kLayers - 1)];
        switch (data.range(0, 10)) {
            case 0:
            case 1:
                create(data, slot);
                break;
            case 2:
            case 3:
                forward(data, slot);
                break;
            case 4:
            case 5:
                train(data, slot);
                break;
            case 7:
                create_network(data, network);
                break;
            case 8:
            case 9:
                run_network(data, network);
                break;
            case 6:
                if (slot.layer != nullptr && !slot.weight.empty()) {
                    slot.weight = numbers(data, static_cast<int64_t>(slot.weight.size()));
                    const float *bias = data.coin() && !slot.bias.empty() ? slot.bias.data() : nullptr;
                    accepted(qconv_layer_set_weights(slot.layer, slot.weight.data(), bias));
                }
                break;
            default:
                accepted(qconv_set_num_threads(static_cast<int>(extent(data, 3))));
                fold_batch_norm(data);
                accepted(qconv_layer_forward(slot.layer, nullptr, wild(data), wild(data), nullptr, nullptr, 0));
                require(qconv_layer_width_out(nullptr, 1, nullptr) == QCONV_INVALID_ARGUMENT);
                break;
        }
    }
    for (const Slot &slot : slots)
        qconv_layer_destroy(slot.layer);
    qconv_network_destroy(network.network);
    return 0;
}
