"""The operators themselves: torch.library's checks, compilation, dtypes, layouts, threads, memory."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import qconv
from qconv import _cache, _ops
from qconv._layer import layer_spec, layer_text
from qconv._library import FORWARD, GRAD_INPUT, GRAD_WEIGHT, SAVES_INPUT, SAVES_NOTHING, SAVES_STATE
from support import assert_close

TRAINING = FORWARD | GRAD_INPUT | GRAD_WEIGHT
IDENTITY = ("identity",)


def text(layer="QConv1d", inputs=("sign",), weights=("sign",), limit=1.0, in_channels=6, groups=1):
    value = 0.0 if layer == "conv1d" else -1.0
    return layer_text(layer, in_channels, 8, 3, 2, 1, 2, 2, groups, value, inputs, weights, limit)


# Layers that save a state, the input, and neither.
LAYERS = {
    "state": text(),
    "input": text(inputs=("swishsign", 5.0), weights=("weightdorefa", 2)),
    "noact": text("QConv1d_NoAct", IDENTITY, ("approxsign",), None),
    "conv1d": text("conv1d", IDENTITY, IDENTITY, None, groups=2),
}


def operands(layer, dtype=torch.float32, grad=False):
    spec = layer_spec(layer)
    x = torch.randn(3, spec.in_channels, 21, dtype=dtype)
    weight = torch.randn(spec.weight_shape, dtype=dtype)
    bias = torch.randn(spec.out_channels, dtype=dtype) if spec.layer == "conv1d" else None
    return [None if t is None else t.requires_grad_(grad) for t in (x, weight, bias)]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(layer, dtype):
    opcheck(_ops.forward, (*operands(layer, dtype), layer))
    x, weight, bias = operands(layer, dtype, grad=True)
    opcheck(_ops.training, (x, weight, bias, layer, TRAINING))
    y, state = _ops.training(x, weight, bias, layer, TRAINING)
    x, weight = x.detach(), weight.detach()
    opcheck(_ops.backward, (torch.randn_like(y), x, weight, state, layer, 21, TRAINING, bias is not None))


@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compile(backend, dynamic):
    net = nn.Sequential(
        nn.Conv1d(4, 8, 3, padding="same"),
        qconv.QConv1d(8, 8, 3, padding=1, gradient_cancellation_threshold=1.0),
        nn.BatchNorm1d(8),
        qconv.QConv1d_NoAct(8, 8, 3, padding=[2, 0], weight_quantization=qconv.WeightDoReFa(2)),
    )
    compiled = torch.compile(net, backend=backend, fullgraph=True, dynamic=dynamic)
    for width in (20, 31):
        x = torch.randn(2, 4, width)
        results = []
        for model in (net, compiled):
            leaf = x.clone().requires_grad_()
            y = model(leaf)
            results.append((y, *torch.autograd.grad(y.square().sum(), [leaf, *net.parameters()])))
        for actual, expected in zip(*results):
            assert_close(actual, expected, sums=1e-4)
        with torch.no_grad():
            assert_close(compiled(x), net(x), sums=1e-4)


def progressive(**options):
    quantizer = qconv.ProgressiveSign(use_global_scaling=False, initial_scale=0.0, **options)
    return quantizer, lambda progress: setattr(quantizer, "scale", progress)


def scheduled(procedure):
    stages = ["identity", qconv.InputDoReFa(2), "sign"]
    quantizer = qconv.Scheduled(stages, procedure)
    return quantizer, lambda progress: setattr(quantizer, "factor", progress)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize(
    ("make", "graphs"),
    [
        (progressive, 2),  # of one number, then of any
        (lambda: progressive(custom_transform=lambda scale: 0.9 * scale), 2),
        (lambda: scheduled("mix_linear"), 5),  # one or two a stage
        (lambda: scheduled("step"), 4),
    ],
    ids=["progressive", "custom", "mixed", "stepped"],
)
def test_compile_follows_schedules(make, graphs, backend):
    """Numbers are operands: a graph is made for each stage, not for each step."""
    schedule, go_to = make()
    layer = qconv.QConv1d(4, 4, 3, input_quantization=schedule)
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    x = torch.randn(1, 4, 12, requires_grad=True)
    for step in range(12):
        go_to(step / 11)
        results = []
        for call in (compiled, layer):
            y = call(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.weight])))
        for actual, expected in zip(*results):
            assert_close(actual, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs


def test_autocast_stays_in_float32():
    layer = qconv.QConv1d(4, 4, 3, gradient_cancellation_threshold=1.0)
    x = torch.randn(2, 4, 16)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
        y = nn.Sequential(nn.Conv1d(4, 4, 1), layer)(x)
        assert y.dtype == torch.float32
        half = x.bfloat16().requires_grad_()
        layer(half).sum().backward()
    assert half.grad.dtype == torch.bfloat16
    expected = x.bfloat16().float().requires_grad_()
    layer(expected).sum().backward()
    assert torch.equal(half.grad, expected.grad.bfloat16())


@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck_of_the_smooth_parts(groups):
    double = {"dtype": torch.float64, "requires_grad": True}
    x, weight, bias = torch.randn(2, 4, 9, **double), torch.randn(6, 4 // groups, 3, **double), torch.randn(6, **double)
    assert gradcheck(lambda *args: qconv.conv1d(*args, 2, [1, 0], 2, groups), (x, weight, bias))
    layer = qconv.QConv1d_NoAct(4, 6, 3, weight_quantization="identity", padding="same", groups=groups).double()
    assert gradcheck(layer, (x,))


@pytest.mark.parametrize("kind", LAYERS)
def test_double_is_the_same_layer(kind):
    layer = LAYERS[kind]
    x, weight, bias = operands(layer)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias) if t is not None]
        y = _ops.convolve(*leaves, *([None] if bias is None else []), layer)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for single, double in zip(*results):
        assert single.dtype == torch.float32 and double.dtype == torch.float64
        assert_close(single, double.float())


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_modes_see_the_operators():
    """The short way to the kernel is for calls that nothing watches."""
    layer = qconv.QConv1d(4, 4, 3, gradient_cancellation_threshold=1.0)
    x = torch.randn(2, 4, 9)
    with Recorder() as recorder:
        layer(x).sum().backward()
        with torch.no_grad():
            layer(x)
    for name in ("training", "backward", "forward"):
        assert f"qconv.{name}.default" in recorder.names


def test_checkpoint_and_transforms():
    layer = qconv.QConv1d(4, 4, 3, gradient_cancellation_threshold=1.0)
    x = torch.randn(2, 4, 9, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight])
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), [x, layer.weight])
    assert all(torch.equal(a, b) for a, b in zip(again, expected))
    with torch.no_grad():
        assert torch.equal(torch.vmap(layer)(x[None])[0], layer(x))
        exported = torch.export.export(layer, (x.detach(),)).module()
        assert torch.equal(exported(x.detach()), layer(x))


def layouts(x):
    yield "transposed", x.transpose(0, 2).contiguous().transpose(0, 2)
    yield "channels last", x.unsqueeze(2).contiguous(memory_format=torch.channels_last).squeeze(2)
    yield "strided", torch.stack([x, x], -1).flatten(2)[..., ::2]
    yield "expanded", x[:1].expand(3, -1, -1)


def test_layouts():
    layer = qconv.QConv1d(6, 8, 3, gradient_cancellation_threshold=1.0)
    for name, x in layouts(torch.randn(3, 6, 21)):
        assert not x.is_contiguous(), name
        leaves = [x.detach().requires_grad_(), x.detach().contiguous().requires_grad_()]
        grads = [torch.autograd.grad(layer(leaf).sum(), [leaf, layer.weight]) for leaf in leaves]
        for actual, expected in zip(*grads):
            assert torch.equal(actual, expected), name


def test_weight_layout():
    weight = torch.randn(3, 6, 8).permute(2, 1, 0)
    x = torch.randn(2, 6, 10)
    assert torch.equal(qconv.conv1d(x, weight), qconv.conv1d(x, weight.contiguous()))


def test_layouts_in_backward():
    """A compiler may hand the operator its operands with other strides."""
    layer = text()
    x, weight, _ = operands(layer)
    y, state = _ops.training(x, weight, None, layer, TRAINING)
    grad = torch.randn_like(y)
    expected = _ops.backward(grad, None, weight, state, layer, 21, TRAINING, False)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (grad, weight, state)]
    actual = _ops.backward(strided[0], None, strided[1], strided[2], layer, 21, TRAINING, False)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


def test_empty_batch():
    layer = qconv.QConv1d(6, 8, 3, gradient_cancellation_threshold=1.0)
    x = torch.randn(0, 6, 10, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, 8, 8)
    y.sum().backward()
    assert x.grad.shape == x.shape and torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_unbatched():
    x = torch.randn(6, 21, requires_grad=True)
    layer = qconv.QConv1d(6, 8, 3)
    assert torch.equal(layer(x), layer(x[None])[0])
    layer(x).sum().backward()
    assert x.grad.shape == x.shape


# --- what is kept for backward


def saved_by(run):
    """Tensors that autograd keeps, by way of its hooks."""
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return kept


@pytest.mark.parametrize("quantizer", ["sign", "steheaviside"])
def test_state_replaces_the_input(quantizer):
    layer = qconv.QConv1d(64, 64, 3, input_quantization=quantizer, gradient_cancellation_threshold=1.0)
    x = torch.randn(4, 64, 1024, requires_grad=True)
    kept = saved_by(lambda: layer(x))
    floats = [t for t in kept if t.is_floating_point()]
    assert [t.shape for t in floats] == [layer.weight.shape], "a float tensor beside the weight is kept"
    states = [t for t in kept if not t.is_floating_point()]
    assert sum(t.nbytes for t in states) * 16 == x.nbytes


def test_state_outlives_the_input():
    """x itself is freed after forward, and backward still runs."""
    layer = qconv.QConv1d(8, 8, 3, gradient_cancellation_threshold=1.0)
    leaf = torch.randn(2, 8, 40, requires_grad=True)
    x = leaf * 2
    expected = torch.autograd.grad(layer(x).sum(), [x])[0]
    y = layer(x)
    gone = weakref.ref(x)
    x.register_hook(lambda grad: torch.testing.assert_close(grad, expected))
    del x
    gc.collect()
    assert gone() is None
    y.sum().backward()
    assert torch.equal(leaf.grad, 2 * expected)


@pytest.mark.parametrize(
    ("layer", "directions", "saved", "planes"),
    [
        (text(), TRAINING, SAVES_STATE, 2),
        (text(limit=None), FORWARD | GRAD_INPUT, SAVES_NOTHING, 0),
        (text(limit=None), FORWARD | GRAD_WEIGHT, SAVES_STATE, 2),
        (text(inputs=("steheaviside",)), FORWARD | GRAD_INPUT, SAVES_STATE, 2),
        (text(inputs=("approxsign",)), TRAINING, SAVES_INPUT, 0),
        (text(inputs=("inputdorefa", 2)), TRAINING, SAVES_STATE, 3),
        (text(inputs=("inputdorefa", 8)), TRAINING, SAVES_STATE, 9),
        (text(inputs=("scheduled", ("sign",), ("steheaviside",), 0.5)), TRAINING, SAVES_INPUT, 0),
        (LAYERS["noact"], FORWARD | GRAD_INPUT, SAVES_NOTHING, 0),
        (LAYERS["noact"], TRAINING, SAVES_INPUT, 0),
    ],
)
def test_saved(layer, directions, saved, planes):
    assert layer_spec(layer).saved(directions) == (saved, planes)


def test_only_what_is_asked_for():
    layer = qconv.QConv1d(4, 4, 3, gradient_cancellation_threshold=1.0)
    x = torch.randn(1, 4, 12)
    layer(x).sum().backward()
    assert x.grad is None and layer.weight.grad is not None
    layer.weight.requires_grad_(False)
    both = layer.weight.grad
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()
    assert leaf.grad is not None and layer.weight.grad is both


# --- packed weights


def test_weights_are_followed():
    layer = qconv.QConv1d(4, 4, 3)
    x = torch.randn(1, 4, 12)
    with torch.no_grad():
        before = layer(x)
        layer.weight.neg_()
        assert torch.equal(layer(x), -before)
        layer.weight = nn.Parameter(-layer.weight)
        assert torch.equal(layer(x), before)
        layer.weight.data = -layer.weight
        assert torch.equal(layer(x), -before)
        layer.load_state_dict({"weight": -layer.weight})
        assert torch.equal(layer(x), before)
        bias, weight = torch.zeros(4), layer.weight.detach()
        unbiased = qconv.conv1d(x, weight, bias)
        bias += 1
        assert_close(qconv.conv1d(x, weight, bias), unbiased + 1)


def test_packed_layers_go_with_their_weights():
    gc.collect()
    before = _cache.count_weights()
    weight = torch.randn(4, 4, 3)
    qconv.conv1d(torch.randn(1, 4, 12), weight)
    assert _cache.count_weights() == before + 1
    del weight
    gc.collect()
    assert _cache.count_weights() == before


def test_gradient_of_two_uses():
    """One layer used twice in a step, as in a recurrent network, and trained over several steps."""
    layer = qconv.QConv1d(4, 4, 3, padding=1, gradient_cancellation_threshold=1.0)
    twin = qconv.QConv1d(4, 4, 3, padding=1, gradient_cancellation_threshold=1.0).double()
    twin.load_state_dict(layer.state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in (layer, twin)]
    for _ in range(3):
        x = torch.randn(2, 4, 16)
        for module, optimizer in zip((layer, twin), optimizers):
            optimizer.zero_grad()
            inner = module(x.to(module.weight.dtype))
            module(inner / 8).square().sum().backward()
            optimizer.step()
        assert_close(layer.weight.grad, twin.weight.grad.float())


# --- threads


def test_threads_are_followed():
    from qconv._library import LIBRARY

    layer = qconv.QConv1d(64, 64, 3)
    x = torch.randn(2, 64, 600)
    with torch.no_grad():
        results = []
        for threads in (1, 3, 2):
            torch.set_num_threads(threads)
            results.append(layer(x))
            assert LIBRARY.qconv_get_num_threads() == threads
    assert all(torch.equal(result, results[0]) for result in results)


def test_gradients_are_the_same_bits_at_any_number_of_threads():
    layer = qconv.QConv1d(48, 40, 3, gradient_cancellation_threshold=1.0)
    x = torch.randn(3, 48, 700, requires_grad=True)
    grad_output = torch.randn(3, 40, 698)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(torch.autograd.grad(layer(x), [x, layer.weight], grad_output))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_calls_from_several_threads():
    """Inference and training of one layer at once, with the weights changing in between."""
    layer = qconv.QConv1d(32, 32, 3)
    x = torch.randn(2, 32, 200)
    with torch.no_grad():
        positive = layer(x)
    wrong = []

    def work():
        for step in range(40):
            y = layer(x) if step % 2 else layer.eval()(x).detach()
            if not (torch.equal(y, positive) or torch.equal(y, -positive)):
                wrong.append(step)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with torch.no_grad():
        layer.weight.neg_()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with torch.no_grad():
        assert torch.equal(layer(x), -positive)
