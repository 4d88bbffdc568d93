"""Calls by the compiled module (_native.cpp) beside the same calls in Python: the same bits, the same errors."""

import gc
import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import qconv
from qconv import _cache, _native, _ops
from test_operators import LAYERS, operands

if _native.MODULE is None:
    pytest.skip("no native module: `python -m qconv.native` compiles it", allow_module_level=True)


@pytest.fixture
def in_python(monkeypatch):
    """Runs a function without the module."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(_ops, "_convolve_natively", None)
            return function()

    return run


def name_of_gradient(y):
    return y.grad_fn.name()


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_inference(layer, in_python):
    arguments = *operands(layer), layer
    assert _native.MODULE.convolve(*arguments) is not None
    assert torch.equal(_ops.convolve(*arguments), in_python(lambda: _ops.convolve(*arguments)))


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1), "all"], ids=["x", "weight", "both", "all"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_training(layer, wanted, in_python):
    given = [t for t in operands(layer) if t is not None]
    for i in range(len(given)) if wanted == "all" else wanted:
        given[i].requires_grad_()
    leaves = [t for t in given if t.requires_grad]

    def run():
        x, weight, bias = given if len(given) == 3 else (*given, None)
        y = _ops.convolve(x, weight, bias, layer)
        return y, *torch.autograd.grad(y, leaves, torch.cos(torch.arange(y.numel()).reshape(y.shape)))

    results, expected = run(), in_python(run)
    assert name_of_gradient(results[0]) == "QConv1dBackward" != name_of_gradient(expected[0])
    assert len(results) == len(expected) == 1 + len(leaves)
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, layer: layer(x.double()),
        lambda x, layer: layer(x[:, :3]),
        lambda x, layer: layer(x[..., :2]),
        lambda x, layer: layer(x[0, 0]),
        lambda x, layer: qconv.conv1d(x, layer.weight, torch.ones(3)),
        lambda x, layer: qconv.conv1d(x, layer.weight, torch.ones(8, dtype=torch.float64)),
    ],
)
def test_errors_are_the_same(call, in_python):
    layer, x = qconv.QConv1d(4, 8, 3), torch.randn(2, 4, 9)

    def error():
        with pytest.raises((ValueError, TypeError)) as raised:
            call(x, layer)
        return type(raised.value), str(raised.value)

    assert error() == in_python(error)


def trained(x=None):
    layer = qconv.QConv1d(4, 8, 3, gradient_cancellation_threshold=1.0)
    x = torch.randn(2, 4, 9, requires_grad=True) if x is None else x
    return layer, x, layer(x)


def test_second_derivatives_are_refused():
    layer, x, y = trained()
    (grad,) = torch.autograd.grad(y.square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="qconv: a QConv1d of 4 to 8 channels has no second derivatives"):
        grad.sum().backward()


def test_backward_twice():
    layer, x, y = trained()
    (first,) = torch.autograd.grad(y.sum(), [x], retain_graph=True)
    (second,) = torch.autograd.grad(y.sum(), [x])
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), [x])


def test_weights_that_change_before_backward():
    layer, x, y = trained()
    with torch.no_grad():
        layer.weight.neg_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_one_gradient_of_two():
    """A gradient asked of autograd alone is the one that comes with the other."""
    layer, x, y = trained()
    grad_output = torch.randn_like(y)
    both = torch.autograd.grad(y, [x, layer.weight], grad_output, retain_graph=True)
    alone = [torch.autograd.grad(y, [leaf], grad_output, retain_graph=True)[0] for leaf in (x, layer.weight)]
    assert all(torch.equal(a, b) for a, b in zip(both, alone))


def test_strided_and_empty(in_python):
    layer = qconv.QConv1d(4, 8, 3)
    for x in (torch.randn(9, 2, 4).permute(1, 2, 0), torch.randn(0, 4, 9), torch.randn(2, 8, 9)[:, ::2]):
        x.requires_grad_()

        def run():
            y = layer(x)
            return y, *torch.autograd.grad(y, [x, layer.weight], torch.ones_like(y).mT.contiguous().mT)

        assert all(torch.equal(a, b) for a, b in zip(run(), in_python(run)))


def test_checkpoint_and_hooks():
    layer, x, y = trained()
    expected = torch.autograd.grad(y.sum(), [x])[0]
    assert torch.equal(torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sum(), [x])[0], expected)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        y = layer(x)
    assert torch.equal(torch.autograd.grad(y.sum(), [x])[0], expected)


def test_what_is_not_plain_goes_to_python():
    layer = LAYERS["state"]
    x, weight, _ = operands(layer)
    convolve = _native.MODULE.convolve
    assert convolve(x, weight, None, layer) is not None
    assert convolve(x.double(), weight, None, layer) is None
    assert convolve(x[0], weight, None, layer) is None
    assert convolve(x, weight[:, :2], None, layer) is None
    assert convolve(x.to("meta"), weight, None, layer) is None
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert convolve(dual, weight, None, layer) is None


def test_graphs_outlive_their_layers():
    gc.collect()
    before = _cache.count_weights()
    layer, x, y = trained()
    expected = torch.autograd.grad(y.sum(), [x], retain_graph=True)[0]
    assert _cache.count_weights() == before + 1
    del layer
    gc.collect()
    assert torch.equal(torch.autograd.grad(y.sum(), [x])[0], expected)
    del y
    gc.collect()
    assert _cache.count_weights() == before


def test_training_from_several_threads():
    """Every thread with gradients of its own, of one layer whose weights change between rounds."""
    layer = qconv.QConv1d(16, 16, 3, gradient_cancellation_threshold=1.0)
    inputs = [torch.randn(2, 16, 64, requires_grad=True) for _ in range(8)]
    for _ in range(5):
        expected = [torch.autograd.grad(layer(x).sum(), [x, layer.weight]) for x in inputs]
        with torch.no_grad():
            layer.weight.neg_()  # packed anew by whoever comes first
        wrong = []

        def work(x, of_x, of_weight):
            for _ in range(20):
                mine = torch.autograd.grad(layer(x).sum(), [x, layer.weight])
                if not (torch.equal(mine[0], -of_x) and torch.equal(mine[1], of_weight)):
                    wrong.append(x)

        threads = [threading.Thread(target=work, args=(x, *grads)) for x, grads in zip(inputs, expected)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
