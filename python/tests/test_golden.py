"""Against bitorch's own results (tests/golden), through the modules."""

import pytest
import torch

import qconv
from qconv import _ops
from support import assert_close, golden, make_layer, make_quantizer

FORWARD = golden("forward")
BACKWARD = golden("backward")
QUANTIZERS = golden("quantizers")


def named(cases):
    return {"argvalues": cases, "ids": [case.name for case in cases]}


@pytest.mark.parametrize("case", **named(FORWARD))
def test_forward(case):
    x, weight, bias, y = case.arrays("x", "weight", "bias", "y")
    layer = case.layer
    with torch.no_grad():
        if layer["layer"] == "conv1d":
            keys = ("stride", "padding", "dilation", "groups")
            actual = qconv.conv1d(x, weight, bias if bias.numel() else None, **{k: layer[k] for k in keys})
        else:
            actual = make_layer(layer, weight)(x)
    assert_close(actual, y, case.entry["exact"])


def gradients(case):
    """(actual, expected) of each gradient, where bitorch's is a number: surrogates of huge values are NaN."""
    x, weight, grad_output, *expected = case.arrays("x", "weight", "y", "x", "weight", "bias")
    layer = case.layer
    x.requires_grad_()
    if layer["layer"] == "conv1d":
        weight.requires_grad_()
        bias = torch.zeros(layer["out_channels"], requires_grad=True) if layer.get("bias") else None
        keys = ("stride", "padding", "dilation", "groups")
        y = qconv.conv1d(x, weight, bias, **{k: layer[k] for k in keys})
        inputs = [x, weight] + ([bias] if bias is not None else [])
    else:
        module = make_layer(layer, weight)
        y = module(x)
        inputs = [x, module.weight]
    actual = torch.autograd.grad(y, inputs, grad_output)
    return [(ours[~theirs.isnan()], theirs[~theirs.isnan()]) for ours, theirs in zip(actual, expected)]


# Where the sums are exact, what remains is the rounding of a surrogate's derivative.
def sums(case):
    return 1e-6 if case.entry["exact"] else 1e-5


@pytest.mark.parametrize("case", **named(BACKWARD))
def test_backward(case):
    for actual, expected in gradients(case):
        assert_close(actual, expected, sums=sums(case))


@pytest.fixture
def composite(monkeypatch):
    """What double precision runs, in single, so that ties fall where bitorch's do."""
    monkeypatch.setattr(_ops, "_convolve_natively", None)
    monkeypatch.setattr(_ops, "_float32", torch.float64)
    monkeypatch.setattr(_ops, "_float64", torch.float32)


@pytest.mark.parametrize("case", **named(FORWARD))
def test_composite_forward(case, composite):
    test_forward(case)


@pytest.mark.parametrize("case", **named(BACKWARD))
def test_composite_backward(case, composite):
    test_backward(case)


@pytest.mark.parametrize("case", **named(QUANTIZERS))
def test_quantizer(case):
    values, quantized, gradient = case.arrays("values", "values", "values")
    quantizer = make_quantizer(case.layer["input_quantization"])
    x = values.clone().requires_grad_()
    y = quantizer(x)
    assert_close(y.detach(), quantized, sums=1e-6)
    defined = ~gradient.isnan()
    assert_close(torch.autograd.grad(y.sum(), x)[0][defined], gradient[defined], sums=1e-6)


@pytest.mark.parametrize("case", **named(QUANTIZERS))
def test_quantizer_in_a_layer(case):
    """The same through a kernel: one channel, one tap, an identity weight of 1."""
    values, quantized = case.arrays("values", "values")
    layer = make_layer(case.layer, torch.ones(1, 1, 1))
    with torch.no_grad():
        assert_close(layer(values[None, None])[0, 0], quantized, sums=1e-6)
