"""What PyTorch's tools make of layers: export, tracing, counting, transforms, types; as they do of torch.nn.Conv1d."""

import importlib.resources
import inspect

import pytest
import torch
import torch.fx
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import qconv
from qconv import _ops


def called(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_export_holds_the_forward_operator(gradients, training):
    model, x = nn.Sequential(qconv.QConv1d(4, 4, 3)).train(training), torch.randn(1, 4, 20)
    with torch.set_grad_enabled(gradients):
        exported = torch.export.export(model, (x,))
    assert called(exported.graph) == ["qconv.forward.default"]
    assert called(exported.run_decompositions().graph) == ["qconv.forward.default"]
    again = exported.module()
    results = [m(x) for m in (model, again)]
    assert torch.equal(*results)
    if gradients:  # and can be trained
        grads = [torch.autograd.grad(y.square().sum(), m.parameters())[0] for y, m in zip(results, (model, again))]
        assert torch.equal(*grads)


def test_jit_trace(tmp_path):
    model, x = nn.Sequential(qconv.QConv1d(4, 4, 3)).eval(), torch.randn(1, 4, 20)
    traced = torch.jit.trace(model, x)  # which checks what it has traced, once more without gradients
    torch.jit.save(traced, tmp_path / "model.pt")
    assert torch.equal(torch.jit.load(tmp_path / "model.pt")(x), model(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 4, 3)), nn.Parameter(torch.randn(5))
        self.own = qconv.QConv1d(5, 5, 3, weight_quantization=torch.tanh, padding_mode="reflect", padding=1)
        self.layer = qconv.QConv1d(5, 6, 3)

    def forward(self, x):
        return self.layer(self.own(qconv.conv1d(x, self.weight, self.bias, padding=1)).relu())


def test_symbolic_trace():
    net, x = Net(), torch.randn(2, 4, 20)
    traced = torch.fx.symbolic_trace(net)
    assert [node.op for node in traced.graph.nodes].count("call_module") == 2
    assert torch.equal(traced(x), net(x))
    with torch.no_grad():
        net.own.weight.neg_()  # which the graph must hold by name, not by value
    assert torch.equal(traced(x), net(x))


def count(layer, x, backward=False):
    counter = FlopCounterMode(display=False)
    with counter:
        y = layer(x)
        if backward:
            y.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backward", [False, True])
def test_flops(backward):
    options = {"stride": 2, "padding": 1, "bias": False}
    ours, theirs = qconv.QConv1d(16, 32, 3, **options), nn.Conv1d(16, 32, 3, **options)
    x, once = torch.randn(3, 16, 100, requires_grad=True), 2 * 3 * 50 * 32 * 16 * 3
    assert count(ours, x, backward) == count(theirs, x, backward) == (3 if backward else 1) * once
    with torch.no_grad():
        assert count(ours, x) == count(theirs, x) == once
    # PyTorch counts the weight's gradient of a grouped layer as if it had no groups.
    assert count(qconv.QConv1d(16, 32, 3, groups=4, **options), x, backward) == (3 if backward else 1) * once // 4


@pytest.mark.parametrize("kind", [torch.int16, torch.uint8, torch.bool, torch.complex64])
def test_the_advice_for_other_types_works(kind):
    layer, x = qconv.QConv1d(1, 8, 7), torch.randint(0, 2, (1, 1, 100)).to(kind)
    with pytest.raises(TypeError, match=r"convert it with \.float\(\)") as raised:
        layer(x)
    assert "autocast" not in str(raised.value)
    if kind is not torch.complex64:
        layer(x.float())


# --- derivatives


@pytest.mark.parametrize("with_bias", [False, True])
def test_all_derivatives_of_float_layers(with_bias):
    double = {"dtype": torch.float64, "requires_grad": True}
    tensors = [torch.randn(2, 4, 9, **double), torch.randn(6, 2, 3, **double)]
    if with_bias:
        tensors.append(torch.randn(6, **double))

    def call(x, weight, bias=None):
        return qconv.conv1d(x, weight, bias, 2, [1, 0], 2, 2)

    assert gradcheck(call, tensors) and gradgradcheck(call, tensors)
    for alone in range(len(tensors)):
        chosen = [t if i == alone else t.detach() for i, t in enumerate(tensors)]
        assert gradgradcheck(call, chosen)


@pytest.mark.parametrize("call", ["conv1d", "module"])
def test_a_gradient_penalty(call):
    """In float32, through kernels forward and once backward."""
    x, weight = torch.randn(2, 3, 20, requires_grad=True), torch.randn(5, 3, 3, requires_grad=True)
    module = qconv.QConv1d_NoAct(3, 5, 3, weight_quantization="identity")
    module.weight = nn.Parameter(weight.detach().clone())

    def penalty(f, *leaves):
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        return torch.autograd.grad((g.norm() - 1) ** 2, leaves, retain_graph=True)

    ours = penalty(module, module.weight) if call == "module" else penalty(lambda x: qconv.conv1d(x, weight), weight)
    theirs = penalty(lambda x: functional.conv1d(x, weight), weight)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_of_quantized_layers_are_refused(dtype):
    layer = qconv.QConv1d(3, 5, 3).to(dtype)
    x = torch.randn(2, 3, 20, dtype=dtype, requires_grad=True)
    for loss in (layer(x).sum(), layer(x).tanh().sum()):  # whose gradient is constant, and is not
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(RuntimeError, match="qconv: a QConv1d of 3 to 5 channels has no second derivatives"):
            g.norm().backward()


def parameters_of(layer):
    return {name: tensor.detach() for name, tensor in layer.named_parameters()}


def loss_of(layer):
    return lambda parameters, x: functional_call(layer, parameters, (x[None],)).square().sum()


def test_per_sample_gradients():
    ours, theirs = qconv.QConv1d_NoAct(3, 5, 3, weight_quantization="identity"), nn.Conv1d(3, 5, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 20)
    results = [vmap(grad(loss_of(m)), (None, 0))(parameters_of(m), x)["weight"] for m in (ours, theirs)]
    torch.testing.assert_close(*results)
    results = [jvp(m, (x,), (torch.ones_like(x),)) for m in (ours, theirs)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: vmap(grad(loss_of(layer)), (None, 0))(parameters_of(layer), x),
        lambda layer, x: grad(lambda x: layer(x).sum())(x),
        lambda layer, x: jvp(layer, (x,), (x,)),
        lambda layer, x: vmap(layer)(x[None]),
    ],
    ids=["per sample", "grad", "jvp", "vmap with gradients"],
)
def test_transforms_of_quantized_layers_are_refused(call):
    with pytest.raises(RuntimeError, match="qconv: a QConv1d of 3 to 5 channels"):
        call(qconv.QConv1d(3, 5, 3), torch.randn(4, 3, 20))


def test_forward_mode_loses_nothing():
    layer, x = qconv.QConv1d(3, 5, 3).requires_grad_(False), torch.randn(1, 3, 20)
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(layer(x), layer(x.clone()))
        with pytest.raises(RuntimeError, match="qconv: .* forward mode"):
            layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


# --- types


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quantizer", ["sign", "approxsign"])  # which save a state, and the input
def test_halves_are_computed_in_float32(dtype, quantizer):
    half = qconv.QConv1d(4, 8, 3, input_quantization=quantizer, gradient_cancellation_threshold=1.0).to(dtype)
    single = qconv.QConv1d(4, 8, 3, input_quantization=quantizer, gradient_cancellation_threshold=1.0)
    single.load_state_dict(half.state_dict())
    x = torch.randn(2, 4, 20, dtype=dtype)
    results = []
    for layer in (half, single):
        leaf = x.detach().to(layer.weight.dtype).requires_grad_()
        y = layer(leaf)
        y.square().sum().backward() if layer is single else y.backward((2 * y.float()).to(dtype))
        results.append((y, leaf.grad, layer.weight.grad))
    assert all(tensor.dtype == dtype for tensor in results[0])
    torch.testing.assert_close(results[0], tuple(tensor.to(dtype) for tensor in results[1]), rtol=0.02, atol=0.02)
    compiled = torch.compile(half, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), half(x))


def test_halves_can_be_refused():
    layer, x = qconv.QConv1d(4, 8, 3).half(), torch.randn(2, 4, 20).half()
    qconv.accept_half(False)
    try:
        with pytest.raises(TypeError, match=r"float16; .*accept_half\(False\)"):
            layer(x)
    finally:
        qconv.accept_half(True)
    assert layer(x).dtype == torch.float16


def test_negative_views():
    """Of conjugates: tensors whose memory has the other sign."""
    x = torch.randn(1, 3, 20, dtype=torch.complex64).conj().imag
    weight = torch.randn(5, 3, 3, dtype=torch.complex64).conj().imag
    assert x.is_neg() and weight.is_neg()
    expected = functional.conv1d(x, weight)
    torch.testing.assert_close(qconv.conv1d(x, weight), expected)


@pytest.mark.parametrize("kind", [qconv.QConv1d, qconv.QConv1d_NoAct])
def test_skip_init(kind):
    layer = nn.utils.skip_init(kind, 4, 8, 3, padding=1)
    assert layer.weight.shape == (8, 4, 3) and layer.weight.device.type == "cpu"
    theirs = inspect.signature(nn.Conv1d).parameters
    ours = inspect.signature(kind).parameters
    assert [name for name in ours if ours[name].kind is not inspect.Parameter.KEYWORD_ONLY] == list(theirs)


def test_the_package_is_typed():
    assert importlib.resources.files(qconv).joinpath("py.typed").is_file()


def test_names_that_are_exported_exist():
    assert all(hasattr(qconv, name) for name in qconv.__all__)
    assert _ops.forward.name() == "qconv::forward"
