"""The modules' arguments, attributes and errors, as documented."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import qconv
from support import assert_close


def test_attributes_are_those_of_conv1d():
    options = {"stride": 2, "padding": 3, "dilation": 2, "groups": 2}
    ours, theirs = qconv.QConv1d(4, 6, 5, **options), nn.Conv1d(4, 6, 5, bias=False, **options)
    for name in ("stride", "padding", "dilation", "groups", "kernel_size", "in_channels", "out_channels"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.padding_mode == "zeros" and ours.bias is None and isinstance(ours, nn.Conv1d)
    assert ours.weight.shape == theirs.weight.shape
    assert list(ours.state_dict()) == ["weight"]


def test_state_dict_of_conv1d_loads():
    theirs = nn.Conv1d(4, 6, 3, bias=False)
    ours = qconv.QConv1d(4, 6, 3)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.weight, theirs.weight)


def test_defaults():
    layer = qconv.QConv1d(4, 6, 3, padding=1)
    assert isinstance(layer.activation.activation_function, qconv.Sign)
    assert isinstance(layer._weight_quantize, qconv.Sign)
    assert layer._pad_value == -1.0
    assert layer.activation.gradient_cancellation_threshold is None
    assert qconv.QConv1d_NoAct(4, 6, 3, pad_value=0)._pad_value == 0.0


def test_reset_parameters_is_xavier_normal():
    layer = qconv.QConv1d(64, 96, 5)
    expected = (2.0 / (64 * 5 + 96 * 5)) ** 0.5
    assert abs(layer.weight.std().item() / expected - 1) < 0.03
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    assert torch.equal(layer.weight, nn.init.xavier_normal_(torch.empty(96, 64, 5)))


def manual(x, weight, left, right, value, **options):
    sign = qconv.Sign()
    return functional.conv1d(functional.pad(sign(x), (left, right), value=value), sign(weight), **options)


@pytest.mark.parametrize(
    ("padding", "sides"),
    [(0, (0, 0)), (2, (2, 2)), ((2,), (2, 2)), ([3, 1], (3, 1)), ("valid", (0, 0)), ("same", (3, 3))],
)
@pytest.mark.parametrize("pad_value", [None, 0.0, 0.5])
def test_padding(padding, sides, pad_value):
    layer = qconv.QConv1d(4, 6, 4, padding=padding, dilation=2, pad_value=pad_value)
    x = torch.randn(2, 4, 17)
    value = -1.0 if pad_value is None else pad_value
    assert torch.equal(layer(x), manual(x, layer.weight, *sides, value, dilation=2))
    assert torch.equal(layer._apply_padding(x), functional.pad(x, sides, value=value))


def test_same_puts_the_smaller_half_left():
    x, weight = torch.randn(2, 4, 17), torch.randn(6, 4, 4)
    assert_close(qconv.conv1d(x, weight, padding="same"), functional.conv1d(x, weight, padding="same"))
    layer = qconv.QConv1d(4, 6, 4, padding="same")
    assert torch.equal(layer(x), manual(x, layer.weight, 1, 2, -1.0))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode):
    layer = qconv.QConv1d(4, 6, 3, padding=2, padding_mode=mode, gradient_cancellation_threshold=1.0)
    twin = qconv.QConv1d(4, 6, 3, padding=2, padding_mode=mode, gradient_cancellation_threshold=1.0).double()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 17, requires_grad=True)
    sign = qconv.Sign()
    expected = functional.conv1d(functional.pad(sign(x), (2, 2), mode=mode), sign(layer.weight))
    assert torch.equal(layer(x), expected)
    grads = [torch.autograd.grad(m(x.to(m.weight.dtype)).square().sum(), x)[0] for m in (layer, twin)]
    assert_close(*grads)


def test_numpys_integers():
    layer = qconv.QConv1d(*np.array([4, 6, 3, 2, 1]), groups=np.int64(2))
    assert layer(torch.randn(1, 4, 9)).shape == (1, 6, 5)
    with pytest.raises(ValueError, match="stride is 0"):
        qconv.QConv1d(4, 6, 3, stride=np.int64(0))


def test_conv1d_is_torchs():
    x, weight, bias = torch.randn(2, 6, 20), torch.randn(8, 3, 4), torch.randn(8)
    for options in (
        {},
        {"stride": 2},
        {"stride": (3,), "padding": (2,), "dilation": (2,)},
        {"padding": "valid"},
        {"padding": "same", "dilation": 3},
    ):
        for b in (None, bias):
            leaves = [t.clone().requires_grad_() for t in (x, weight, *([] if b is None else [b]))]
            arguments = leaves if b is not None else [*leaves, None]
            results = []
            for function in (qconv.conv1d, functional.conv1d):
                y = function(*arguments, groups=2, **options)
                results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
            for actual, expected in zip(*results):
                assert_close(actual, expected)


class Halve(nn.Module):
    """A quantizer of the user's own, with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.tanh(x) * self.scale


@pytest.mark.parametrize("limit", [None, 0.7])
def test_users_own_quantizers(limit):
    layer = qconv.QConv1d(
        4, 6, 3, padding=1, input_quantization=Halve(), weight_quantization=Halve(),
        gradient_cancellation_threshold=limit,
    )  # fmt: skip
    assert sorted(layer.state_dict()) == ["_weight_quantize.scale", "activation.activation_function.scale", "weight"]
    x = torch.randn(2, 4, 15, requires_grad=True)
    y = layer(x)
    q, w = layer.activation.activation_function, layer._weight_quantize
    expected = functional.conv1d(functional.pad(q(x), (1, 1), value=-1), w(layer.weight))
    assert_close(y, expected)
    leaves = [x, layer.weight, q.scale, w.scale]
    actual = torch.autograd.grad(y.square().sum(), leaves)
    wanted = list(torch.autograd.grad(expected.square().sum(), leaves))
    if limit is not None:
        wanted[0] = torch.where(x.abs() <= limit, wanted[0], 0.0)
    for a, b in zip(actual, wanted):
        assert_close(a, b)


def test_functions_as_quantizers():
    layer = qconv.QConv1d(4, 6, 3, input_quantization=torch.tanh)
    x = torch.randn(2, 4, 15)
    assert_close(layer(x), functional.conv1d(torch.tanh(x), qconv.Sign()(layer.weight)))


def test_progressive_sign_follows_mode_and_scale(monkeypatch):
    layer = qconv.QConv1d(4, 6, 3, input_quantization="progressive_sign")
    x = torch.randn(2, 4, 15)
    weight = qconv.Sign()(layer.weight)
    assert_close(layer(x), functional.conv1d(functional.hardtanh(x), weight))
    monkeypatch.setattr(qconv.ProgressiveSign, "global_scale", 0.1)
    steeper = functional.conv1d(functional.hardtanh(x * 4.0), weight)
    assert_close(layer(x), steeper)
    layer.activation.activation_function = qconv.ProgressiveSign(False, 0.75, custom_transform=lambda scale: scale)
    assert_close(layer(x), steeper)
    layer.activation.activation_function.scale = 0.0
    assert_close(layer(x), functional.conv1d(functional.hardtanh(x), weight))
    layer.eval()
    assert torch.equal(layer(x), functional.conv1d(qconv.Sign()(x), weight))


def test_schedules():
    stages = ["identity", qconv.InputDoReFa(2), "sign"]
    x = torch.randn(50)
    mixed, stepped = qconv.Scheduled(stages), qconv.Scheduled(stages, "step")
    first, second, third = (stage(x) for stage in mixed.quantizations)
    for factor, linear, step in (
        (0.0, first, first),
        (0.25, (first + second) / 2, first),
        (0.5, second, second),
        (0.875, second / 4 + third * 3 / 4, third),
        (1.0, third, third),
    ):
        mixed.factor = stepped.factor = factor
        assert_close(mixed(x), linear)
        assert_close(stepped(x), step)
    own = qconv.Scheduled(["identity", torch.tanh], factor=0.5)
    assert_close(own(x), (x + torch.tanh(x)) / 2)


def test_copies_and_pickles():
    layer = qconv.QConv1d(4, 6, 3, input_quantization=qconv.InputDoReFa(2))
    x = torch.randn(2, 4, 15)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)


def test_parametrized_weight():
    from torch.nn.utils.parametrizations import weight_norm

    layer = weight_norm(qconv.QConv1d_NoAct(4, 6, 3))
    x = torch.randn(2, 4, 15)
    assert_close(layer(x), functional.conv1d(x, qconv.Sign()(layer.weight)))
    layer(x).sum().backward()
    assert layer.parametrizations.weight.original1.grad is not None


def test_inference_mode():
    with torch.inference_mode():
        layer = qconv.QConv1d(4, 6, 3)
        x = torch.randn(2, 4, 15)
        assert torch.equal(layer(x), manual(x, layer.weight, 0, 0, 0.0))


ERRORS = {
    "bias": (lambda: qconv.QConv1d(4, 6, 3, bias=True), ValueError, "bias is True.*has none"),
    "quantizer": (lambda: qconv.QConv1d(4, 6, 3, input_quantization="sing"), ValueError, "'sing'.*did you mean 'sign'"),
    "quantizer type": (lambda: qconv.QConv1d(4, 6, 3, weight_quantization=3), ValueError, "not 3"),
    "quantizer class": (lambda: qconv.QConv1d(4, 6, 3, weight_quantization=qconv.Sign), ValueError, "instance"),
    "bits": (lambda: qconv.InputDoReFa(9), ValueError, "bits is 9; it must be 1 to 8"),
    "threshold": (lambda: qconv.QConv1d(4, 6, 3, gradient_cancellation_threshold=-1), ValueError, "threshold is -1"),
    "same": (lambda: qconv.QConv1d(4, 6, 3, stride=2, padding="same"), ValueError, "stride is 2"),
    "padding": (lambda: qconv.QConv1d(4, 6, 3, padding="full"), ValueError, "'full'.*'same' or 'valid'"),
    "negative": (
        lambda: qconv.QConv1d(4, 6, 3, padding=[1, -1]),
        ValueError,
        "padding is -1; it must be an integer >= 0",
    ),
    "groups": (lambda: qconv.QConv1d(4, 6, 3, groups=3), ValueError, "divisible by groups"),
    "kernel": (lambda: qconv.QConv1d(4, 6, 0), ValueError, "kernel_size is 0"),
    "channels": (lambda: qconv.QConv1d(4, 6, 3)(torch.randn(1, 5, 9)), ValueError, "5 channels.*in_channels is 4"),
    "dimensions": (lambda: qconv.QConv1d(4, 6, 3)(torch.randn(9)), ValueError, "1 dimensions"),
    "width": (lambda: qconv.QConv1d(4, 6, 3, dilation=2)(torch.randn(1, 4, 4)), ValueError, "width is 4.*window, 5"),
    "half": (lambda: qconv.QConv1d(4, 6, 3)(torch.randn(1, 4, 9).bfloat16()), TypeError, "bfloat16.*autocast"),
    "mixed": (lambda: qconv.QConv1d(4, 6, 3)(torch.randn(1, 4, 9).double()), TypeError, "float64 and weight .*float32"),
    "weight": (lambda: qconv.conv1d(torch.randn(1, 4, 9), torch.randn(6, 4)), ValueError, "weight has 2 dimensions"),
    "bias shape": (
        lambda: qconv.conv1d(torch.randn(1, 4, 9), torch.randn(6, 4, 3), torch.randn(5)),
        ValueError,
        r"bias has shape \[5\]",
    ),
    "procedure": (lambda: qconv.Scheduled(["sign"], "cosine"), ValueError, "'cosine'.*'mix_linear' or 'step'"),
}


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_errors_of_the_library_are_exceptions():
    layer = qconv.QConv1d_NoAct(4, 6, 3, padding=1, pad_value=float("inf"))
    with pytest.raises(ValueError, match="pad_value"):
        layer(torch.randn(1, 4, 9))
