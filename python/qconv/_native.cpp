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
    py::function watch;              // _cache.watch
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
    // For these gradients.
    qconv_layer_config with(int directions) const {
        qconv_layer_config asked = config;
        asked.directions = static_cast<std::uint32_t>(directions);
        return asked;
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

const float *read(const at::Tensor &tensor) {
    return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}
float *write(const at::Tensor &tensor) {
    return tensor.defined() ? tensor.mutable_data_ptr<float>() : nullptr;
}

// What _cache.acquire does.
class Lease {
public:
    // Without `backward` the bias is compared, too. The weight must have the layer's shape. Needs no GIL.
    Lease(const at::Tensor &weight, const at::Tensor &bias, const qconv_layer_config &config, std::int64_t batch,
          std::int64_t width, bool backward) {
        const void *address = weight.const_data_ptr();
        // PyTorch counts no changes of inference tensors.
        std::uint64_t version = weight.is_inference() ? 0 : weight._version();
        if (!weight.is_contiguous()) // another view of the same place is compared as a whole
            for (const std::int64_t stride : weight.strides())
                version = 31 * version + static_cast<std::uint64_t>(stride);
        const at::Tensor dense = weight.contiguous(), dense_bias = bias.defined() ? bias.contiguous() : bias;
        check(qconv_weights_acquire(&config, nullptr, address, read(dense), read(dense_bias), version, batch, width,
                                    backward ? 1 : 0, &acquired_));
        if (acquired_.first == 0) return;
        try {
            const py::gil_scoped_acquire gil;
            package->watch(weight, reinterpret_cast<std::uintptr_t>(address));
        } catch (...) {
            qconv_weights_release(acquired_.layer);
            throw;
        }
    }
    ~Lease() { qconv_weights_release(acquired_.layer); }
    Lease(const Lease &) = delete;
    Lease &operator=(const Lease &) = delete;

    const qconv_layer *layer() const { return acquired_.layer; }

private:
    qconv_acquired acquired_{};
};

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
    SpecPtr spec;
    int directions = 0;
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
        const qconv_layer_config config = spec->with(directions);
        const at::Tensor dense = grad_output.contiguous(), dense_x = saved_x.defined() ? saved_x.contiguous() : saved_x,
                         dense_state = saved_state.defined() ? saved_state.contiguous() : saved_state;
        at::Tensor grad_input, grad_weight, grad_bias;
        if (wants(QCONV_GRAD_INPUT, 0)) grad_input = new_tensor({dense.size(0), config.in_channels, width});
        if (wants(QCONV_GRAD_WEIGHT, 1)) grad_weight = new_tensor(spec->weight_shape());
        if (bias && task_should_compute_output(2)) grad_bias = new_tensor({config.out_channels});
        follow_torch_threads();
        const Lease lease(saved_weight, {}, config, dense.size(0), width, true);
        check(qconv_layer_backward(lease.layer(), read(dense_x),
                                   dense_state.defined() ? dense_state.const_data_ptr() : nullptr,
                                   dense_state.defined() ? dense_state.nbytes() : 0, read(dense), dense.size(0), width,
                                   write(grad_input), write(grad_weight), write(grad_bias), nullptr, 0));
        return {grad_input, grad_weight, grad_bias};
    }

private:
    bool wants(int direction, std::size_t output) const {
        return (directions & direction) != 0 && task_should_compute_output(output);
    }

    variable_list apply_in_python(const at::Tensor &grad_output, const at::Tensor &saved_x,
                                  const at::Tensor &saved_weight, const at::Tensor &saved_state) const {
        const py::gil_scoped_acquire gil;
        const py::tuple grads =
            package->backward_otherwise(py::make_tuple(to_python(saved_x), saved_weight, to_python(saved_state)),
                                        py::make_tuple(spec->text, width, directions, bias), grad_output);
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
    const int directions = directions_of(x, weight, bias);
    const qconv_layer_config config = spec->with(directions);
    const std::int64_t batch = x.size(0), width = x.size(2), width_out = spec->width_out(width);
    if (width_out < 1 || x.size(1) != config.in_channels || weight.sizes() != spec->weight_shape() ||
        (bias.defined() && bias.sizes() != at::IntArrayRef{config.out_channels}))
        return std::nullopt;

    const py::gil_scoped_release others;
    at::Tensor y, state;
    qconv_saved saves = QCONV_SAVES_NOTHING;
    {
        const at::AutoDispatchBelowADInplaceOrView kernels_only;
        follow_torch_threads();
        const at::Tensor dense = x.contiguous();
        const Lease lease(weight, bias, config, batch, width, false);
        y = new_tensor({batch, config.out_channels, width_out});
        if (directions == QCONV_FORWARD) {
            check(qconv_layer_forward(lease.layer(), read(dense), batch, width, write(y), nullptr, 0));
            return y;
        }
        saves = qconv_layer_saved(lease.layer());
        if (saves == QCONV_SAVES_STATE) {
            const std::int64_t words = qconv_layer_state_planes(lease.layer()) * ((width + 31) / 32);
            state = new_tensor({batch, config.in_channels, words}, at::kInt);
        }
        check(qconv_layer_forward_training(lease.layer(), read(dense), batch, width, write(y),
                                           state.defined() ? state.mutable_data_ptr() : nullptr,
                                           state.defined() ? state.nbytes() : 0, nullptr, 0));
    }
    auto node = c10::make_intrusive<QConv1dBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(x, weight, bias));
    if (saves == QCONV_SAVES_INPUT) node->x = SavedVariable(x, false);
    node->weight = SavedVariable(weight, false);
    if (state.defined()) node->state = SavedVariable(state, false);
    node->spec = spec;
    node->directions = directions;
    node->width = width;
    node->bias = bias.defined() && bias.requires_grad();
    torch::autograd::set_history(y, node);
    return y;
}

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
    module.def("open", [](py::function describe, py::function watch, py::function backward_otherwise) {
        package = new Package{std::move(describe), std::move(watch), std::move(backward_otherwise)};
    });
    module.def("convolve", &convolve);
}
