// Calls of CPU tensors without the interpreter between PyTorch and libqconv. For plain calls this does what _ops and
// _cache do, and leaves all others to them. Compiled against one PyTorch by native.py, and never needed.

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/functorch/DynamicLayer.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/extension.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "qconv/qconv.h"

namespace py = pybind11;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

namespace {

struct MemoryError : py::builtin_exception {
    using builtin_exception::builtin_exception;
    void set_error() const override { PyErr_SetString(PyExc_MemoryError, what()); }
};

// Throws what _library.check raises. Needs no interpreter: pybind11 and PyTorch make Python's exceptions later.
void check(int status) {
    if (status == QCONV_OK) return;
    const char *message = qconv_last_error();
    if (status == QCONV_INVALID_ARGUMENT) throw py::value_error(message);
    if (status == QCONV_OUT_OF_MEMORY) throw MemoryError(message);
    throw std::runtime_error(message);
}

void follow_torch_threads() {
    const int threads = std::min(at::get_num_threads(), 1024);
    if (threads != qconv_get_num_threads()) check(qconv_set_num_threads(threads));
}

// Functions of Python's, set by open(). Never freed: the last tensor may outlive the interpreter.
struct Package {
    py::function describe;           // (text) -> the bytes of a qconv_layer_config
    py::function backward_otherwise; // _ops._backward_in_python
};
const Package *package = nullptr;

// A layer, by the text that _layer.layer_text gives it.
struct Spec {
    std::string text;
    qconv_layer_config config;

    std::array<std::int64_t, 3> weight_shape() const {
        return {config.out_channels, config.in_channels / config.groups, config.kernel_size};
    }
    // Less than 1 where the input is too narrow.
    std::int64_t width_out(std::int64_t width) const {
        const std::int64_t window = config.dilation * (config.kernel_size - 1) + 1;
        const std::int64_t padded = width + config.pad_left + config.pad_right;
        return padded < window ? 0 : (padded - window) / config.stride + 1;
    }
};
using SpecPtr = std::shared_ptr<const Spec>;

struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

// The GIL guards what it keeps.
SpecPtr spec_of(const py::str &text) {
    constexpr std::size_t kMost = 1024; // as many as _layer keeps: a schedule makes new ones as it moves on
    static std::unordered_map<std::string, SpecPtr, TextHash, std::equal_to<>> specs;
    const auto key = py::cast<std::string_view>(text);
    if (const auto found = specs.find(key); found != specs.end()) return found->second;
    auto spec = std::make_shared<Spec>();
    spec->text = key;
    const auto described = package->describe(text).cast<std::string>();
    TORCH_CHECK(described.size() == sizeof spec->config,
                "qconv: the native module is of another version than libqconv");
    std::memcpy(&spec->config, described.data(), sizeof spec->config);
    if (specs.size() >= kMost) specs.clear();
    specs.emplace(spec->text, spec);
    return spec;
}

std::int64_t version_of(const at::Tensor &tensor) {
    // PyTorch counts no changes of inference tensors.
    return tensor.is_inference() ? 0 : static_cast<std::int64_t>(tensor._version());
}

// What packed weights were made from: addresses and versions tell of changes by PyTorch, in place or to other storage.
struct Source {
    const void *weight = nullptr;
    std::int64_t version = 0;
    at::Tensor bias; // undefined if there is none
    std::int64_t bias_version = 0;

    Source() = default;
    Source(const at::Tensor &weight, const at::Tensor &bias)
        : weight(weight.const_data_ptr()),
          version(version_of(weight)),
          bias(bias),
          bias_version(bias.defined() ? version_of(bias) : 0) {}
    bool is_of_weight(const Source &other) const { return weight == other.weight && version == other.version; }
    bool operator==(const Source &other) const {
        return is_of_weight(other) && bias.is_same(other.bias) && bias_version == other.bias_version;
    }
};

// A qconv_layer. It is destroyed when the last call, graph and weight that hold it have gone.
struct Packed {
    Packed(SpecPtr spec, int directions, qconv_layer *layer)
        : spec(std::move(spec)),
          directions(directions),
          layer(layer),
          saves(qconv_layer_saved(layer)),
          state_planes(qconv_layer_state_planes(layer)) {}
    ~Packed() { qconv_layer_destroy(layer); }
    Packed(const Packed &) = delete;
    Packed &operator=(const Packed &) = delete;

    const SpecPtr spec;
    const int directions;
    qconv_layer *const layer;
    const int saves, state_planes;
    std::atomic<int> users = 0; // calls that are inside it now
    Source source;              // the mutex of its weight guards it
};

// A packed layer while a call is inside it.
class Use {
public:
    explicit Use(std::shared_ptr<Packed> packed) : packed_(std::move(packed)) { ++packed_->users; }
    ~Use() { --packed_->users; }
    Use(const Use &) = delete;
    Use &operator=(const Use &) = delete;

    const std::shared_ptr<Packed> &operator*() const { return packed_; }
    Packed *operator->() const { return packed_.get(); }

private:
    const std::shared_ptr<Packed> packed_;
};

// The packed layers of one weight tensor: one for inference, one for each set of gradients that was asked for.
class PackedWeight {
public:
    // The layer of these weights, packed anew if they have changed; a new one is packed for this width first.
    // Without `forward` it is for backward alone, where the bias plays no part. The weight must have the layer's shape.
    Use acquire(const at::Tensor &weight, const at::Tensor &bias, const SpecPtr &spec, int directions, bool forward,
                std::int64_t width) {
        // Leaves with what it replaced, after the lock: a tensor's end may wait for the GIL.
        Source source(weight, bias);
        const std::lock_guard lock(mutex_);
        const auto found = std::find_if(layers_.begin(), layers_.end(), [&](const std::shared_ptr<Packed> &packed) {
            return packed->directions == directions && packed->spec->text == spec->text;
        });
        std::shared_ptr<Packed> packed = found == layers_.end() ? nullptr : *found;
        if (packed && (forward ? packed->source == source : packed->source.is_of_weight(source))) return Use(packed);
        const at::Tensor dense = weight.contiguous(), dense_bias = bias.defined() ? bias.contiguous() : bias;
        const auto *weights = dense.const_data_ptr<float>();
        const auto *biases = bias.defined() ? dense_bias.const_data_ptr<float>() : nullptr;
        if (packed && packed->users == 0) {
            packed->source.weight = nullptr; // in case that packing fails
            check(qconv_layer_set_weights(packed->layer, weights, biases));
        } else {
            // Another thread may be inside the old one, which lives until that call returns.
            if (packed) layers_.erase(found);
            qconv_layer_config config = spec->config;
            config.directions = static_cast<std::uint32_t>(directions);
            config.width = width;
            qconv_layer *layer = nullptr;
            check(qconv_layer_create(&config, weights, biases, &layer));
            packed = layers_.emplace_back(std::make_shared<Packed>(spec, directions, layer));
            if (layers_.size() > kMost) layers_.erase(layers_.begin());
        }
        std::swap(packed->source, source);
        return Use(packed);
    }

    // acquire for backward: the layer that the forward pass used, if nothing has changed since.
    Use reacquire(const std::shared_ptr<Packed> &packed, const at::Tensor &weight, std::int64_t width) {
        {
            const Source source(weight, {});
            const std::lock_guard lock(mutex_);
            if (packed->source.is_of_weight(source)) return Use(packed);
        }
        return acquire(weight, {}, packed->spec, packed->directions, false, width);
    }

private:
    static constexpr std::size_t kMost = 4; // a schedule makes new ones as it moves on, and the oldest go

    std::mutex mutex_;
    std::vector<std::shared_ptr<Packed>> layers_;
};

// By the weight, from its first call until Python lets go of it. Never freed, as Package.
struct PackedWeights {
    std::mutex mutex;
    std::unordered_map<const c10::TensorImpl *, std::shared_ptr<PackedWeight>> by_weight;

    static PackedWeights &instance() {
        static auto *all = new PackedWeights;
        return *all;
    }
};

void forget(const c10::TensorImpl *weight) {
    PackedWeights &all = PackedWeights::instance();
    decltype(all.by_weight)::node_type gone;
    const std::lock_guard lock(all.mutex);
    gone = all.by_weight.extract(weight);
}

// Needs the GIL.
std::shared_ptr<PackedWeight> packed_weight_of(const at::Tensor &weight) {
    PackedWeights &all = PackedWeights::instance();
    const c10::TensorImpl *key = weight.unsafeGetTensorImpl();
    {
        const std::lock_guard lock(all.mutex);
        if (const auto found = all.by_weight.find(key); found != all.by_weight.end()) return found->second;
    }
    // The reference owns itself until the weight goes.
    py::weakref(py::cast(weight), py::cpp_function([key](py::handle reference) {
                    forget(key);
                    reference.dec_ref();
                }))
        .release();
    const std::lock_guard lock(all.mutex);
    return all.by_weight.try_emplace(key, std::make_shared<PackedWeight>()).first->second;
}

bool is_plain(const at::Tensor &tensor) {
    return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
           !tensor.unsafeGetTensorImpl()->is_python_dispatch() && !tensor.is_neg() &&
           !torch::autograd::isFwGradDefined(tensor);
}

// No mode, transform or tracer would see an operator.
bool is_unobserved() {
    return !c10::impl::TorchDispatchModeTLS::any_modes_set() && !at::functorch::maybeCurrentDynamicLayer() &&
           !torch::jit::tracer::isTracing();
}

// at::empty on the CPU, without its way through the dispatcher.
at::Tensor new_tensor(at::IntArrayRef sizes, at::ScalarType type = at::kFloat) {
    return at::Tensor(at::detail::empty_cpu(sizes, type, false, std::nullopt));
}

const float *read(const at::Tensor &tensor) {
    return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}
float *write(const at::Tensor &tensor) {
    return tensor.defined() ? tensor.mutable_data_ptr<float>() : nullptr;
}

// Absent tensors are Python's None.
py::object to_python(const at::Tensor &tensor) {
    return tensor.defined() ? py::cast(tensor) : py::none();
}
at::Tensor to_tensor(const py::object &given) {
    return given.is_none() ? at::Tensor() : given.cast<at::Tensor>();
}

// What _ops._Direct.backward does.
struct QConv1dBackward final : torch::autograd::Node {
    SavedVariable x, weight, state; // x or a state, or neither
    std::shared_ptr<PackedWeight> packed_weight;
    std::shared_ptr<Packed> packed;
    std::int64_t width = 0;
    bool bias = false; // whether it wants a gradient

    std::string name() const override { return "QConv1dBackward"; }

    void release_variables() override {
        const std::lock_guard lock(mutex_);
        for (SavedVariable *saved : {&x, &weight, &state})
            saved->reset_data();
    }

    void compiled_args(torch::dynamo::autograd::CompiledNodeArgs & /*args*/) const override {
        throw std::runtime_error("qconv: compiled autograd cannot trace native calls; set QCONV_NATIVE=0");
    }

    variable_list apply(variable_list &&grad_outputs) override {
        const at::Tensor &grad_output = grad_outputs[0];
        if (!grad_output.defined()) return variable_list(3);
        at::Tensor saved_x, saved_weight, saved_state;
        {
            const std::lock_guard lock(mutex_);
            saved_x = x.unpack(), saved_weight = weight.unpack(), saved_state = state.unpack();
        }
        // A second derivative would be asked of what is computed with gradients enabled.
        if (at::GradMode::is_enabled() || !is_plain(grad_output) || !is_unobserved() || grad_output.size(0) == 0)
            return apply_in_python(grad_output, saved_x, saved_weight, saved_state);
        const at::AutoDispatchBelowADInplaceOrView kernels_only;
        const qconv_layer_config &config = packed->spec->config;
        const at::Tensor dense = grad_output.contiguous(), dense_x = saved_x.defined() ? saved_x.contiguous() : saved_x,
                         dense_state = saved_state.defined() ? saved_state.contiguous() : saved_state;
        at::Tensor grad_input, grad_weight, grad_bias;
        if (wants(QCONV_GRAD_INPUT, 0)) grad_input = new_tensor({dense.size(0), config.in_channels, width});
        if (wants(QCONV_GRAD_WEIGHT, 1)) grad_weight = new_tensor(packed->spec->weight_shape());
        if (bias && task_should_compute_output(2)) grad_bias = new_tensor({config.out_channels});
        follow_torch_threads();
        const Use use = packed_weight->reacquire(packed, saved_weight, width);
        check(qconv_layer_backward(use->layer, read(dense_x),
                                   dense_state.defined() ? dense_state.const_data_ptr() : nullptr,
                                   dense_state.defined() ? dense_state.nbytes() : 0, read(dense), dense.size(0), width,
                                   write(grad_input), write(grad_weight), write(grad_bias), nullptr, 0));
        return {grad_input, grad_weight, grad_bias};
    }

private:
    bool wants(int direction, std::size_t output) const {
        return (packed->directions & direction) != 0 && task_should_compute_output(output);
    }

    variable_list apply_in_python(const at::Tensor &grad_output, const at::Tensor &saved_x,
                                  const at::Tensor &saved_weight, const at::Tensor &saved_state) const {
        const py::gil_scoped_acquire gil;
        const py::tuple grads = package->backward_otherwise(
            py::make_tuple(to_python(saved_x), saved_weight, to_python(saved_state)),
            py::make_tuple(packed->spec->text, width, packed->directions, bias), grad_output);
        return {to_tensor(grads[0]), to_tensor(grads[1]), to_tensor(grads[2])};
    }
};

int directions_of(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    int directions = QCONV_FORWARD;
    if (!at::GradMode::is_enabled()) return directions;
    if (x.requires_grad()) directions |= QCONV_GRAD_INPUT;
    if (weight.requires_grad() || (bias.defined() && bias.requires_grad())) directions |= QCONV_GRAD_WEIGHT;
    return directions;
}

// _ops.convolve for plain calls; nothing for others and for wrong ones.
std::optional<at::Tensor> convolve(const at::Tensor &x, const at::Tensor &weight,
                                   const std::optional<at::Tensor> &given_bias, const py::str &text) {
    const at::Tensor bias = given_bias.value_or(at::Tensor());
    if (!is_plain(x) || !is_plain(weight) || (bias.defined() && !is_plain(bias)) || x.dim() != 3 || !is_unobserved())
        return std::nullopt;
    const SpecPtr spec = spec_of(text);
    const qconv_layer_config &config = spec->config;
    const std::int64_t batch = x.size(0), width = x.size(2), width_out = spec->width_out(width);
    if (width_out < 1 || x.size(1) != config.in_channels || weight.sizes() != spec->weight_shape() ||
        (bias.defined() && bias.sizes() != at::IntArrayRef{config.out_channels}))
        return std::nullopt;
    const int directions = directions_of(x, weight, bias);
    const std::shared_ptr<PackedWeight> packed_weight = packed_weight_of(weight);

    const py::gil_scoped_release others;
    at::Tensor y, state;
    std::shared_ptr<Packed> packed;
    {
        const at::AutoDispatchBelowADInplaceOrView kernels_only;
        follow_torch_threads();
        const at::Tensor dense = x.contiguous();
        const Use use = packed_weight->acquire(weight, bias, spec, directions, true, width);
        packed = *use;
        y = new_tensor({batch, config.out_channels, width_out});
        if (directions == QCONV_FORWARD) {
            check(qconv_layer_forward(packed->layer, read(dense), batch, width, write(y), nullptr, 0));
            return y;
        }
        if (packed->saves == QCONV_SAVES_STATE)
            state = new_tensor({batch, config.in_channels, packed->state_planes * ((width + 31) / 32)}, at::kInt);
        check(qconv_layer_forward_training(packed->layer, read(dense), batch, width, write(y),
                                           state.defined() ? state.mutable_data_ptr() : nullptr,
                                           state.defined() ? state.nbytes() : 0, nullptr, 0));
    }
    auto node = c10::make_intrusive<QConv1dBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(x, weight, bias));
    if (packed->saves == QCONV_SAVES_INPUT) node->x = SavedVariable(x, false);
    node->weight = SavedVariable(weight, false);
    if (state.defined()) node->state = SavedVariable(state, false);
    node->packed_weight = packed_weight;
    node->packed = packed;
    node->width = width;
    node->bias = bias.defined() && bias.requires_grad();
    torch::autograd::set_history(y, node);
    return y;
}

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
    module.def("open", [](py::function describe, py::function backward_otherwise) {
        package = new Package{std::move(describe), std::move(backward_otherwise)};
    });
    module.def("convolve", &convolve);
    module.def("count_weights", [] {
        PackedWeights &all = PackedWeights::instance();
        const std::lock_guard lock(all.mutex);
        return all.by_weight.size();
    });
    module.def("forget", [](const at::Tensor &weight) { forget(weight.unsafeGetTensorImpl()); });
}
