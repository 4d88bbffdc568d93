"""The plug-in, and layers that hold bitorch's own quantizers. bitorch's results are the expected ones."""

import pytest
import torch
from torch import nn

import qconv
from support import assert_close

bitorch = pytest.importorskip("bitorch", reason="bitorch is not installed")

from bitorch import RuntimeMode  # noqa: E402
from bitorch import layers as theirs  # noqa: E402
from bitorch import quantizations as quantizers  # noqa: E402
from bitorch.layers.register import all_layer_registries, q_conv1d_registry  # noqa: E402

import qconv.bitorch  # noqa: E402


@pytest.fixture(autouse=True)
def registries():
    """Leaves bitorch as it was."""
    yield
    bitorch.mode = RuntimeMode.DEFAULT
    for registry in all_layer_registries():
        registry.unregister_custom_implementations()
        registry.clear()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 5, padding="same")
        self.body = nn.Sequential(
            theirs.QConv1d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm1d(8),
            theirs.QConv1d(
                8, 12, 4, 2, 3, input_quantization="swishsign", weight_quantization="approxsign", pad_value=0.5
            ),
            nn.BatchNorm1d(12),
            theirs.QConv1d(
                12,
                8,
                3,
                groups=2,
                input_quantization=quantizers.InputDoReFa(2),
                weight_quantization=quantizers.WeightDoReFa(2),
                gradient_cancellation_threshold=2.0,
            ),
        )
        self.last = theirs.QConv1d_NoAct(8, 6, 3, padding="same")
        self.classify = theirs.QLinear(6, 5, bias=False)

    def forward(self, x):
        return self.classify(self.last(self.body(self.stem(x))).mean(-1))


def step(net, x):
    """Loss and the gradients of x and all parameters."""
    x = x.clone().requires_grad_()
    loss = net(x).square().sum()
    return [loss, *torch.autograd.grad(loss, [x, *net.parameters()])]


def test_a_model_is_accelerated_unchanged():
    net, x = Net(), torch.randn(4, 3, 40)
    expected, weight, names = step(net, x), net.body[0].weight, list(net.state_dict())
    with torch.no_grad():
        inference = net.eval()(x)
    qconv.bitorch.register()
    bitorch.convert(net.train(), RuntimeMode.CPU)
    for index in (0, 2, 4):
        assert isinstance(net.body[index], qconv.bitorch.QConv1d)
    assert net.body[0].weight is weight and list(net.state_dict()) == names
    for actual, wanted in zip(step(net, x), expected):
        assert_close(actual, wanted, sums=1e-4)
    with torch.no_grad():
        assert_close(net.eval()(x), inference, sums=1e-4)


def test_layers_made_in_cpu_mode():
    qconv.bitorch.register()
    with bitorch.change_mode(RuntimeMode.CPU):
        bitorch.mode = RuntimeMode.CPU
        layer = theirs.QConv1d(4, 4, 3, padding=1)
        assert isinstance(theirs.QLinear(4, 4), theirs.QLinearBase)
    assert isinstance(layer, qconv.bitorch.QConv1d)
    layer(torch.randn(1, 4, 9)).sum().backward()


def test_registering_twice_is_once():
    qconv.bitorch.register()
    before = len(q_conv1d_registry.layer_implementations)
    qconv.bitorch.register()
    assert len(q_conv1d_registry.layer_implementations) == before == 2


def test_what_cannot_be_cloned_is_said():
    layer = theirs.QConv1d(4, 4, 3, dtype=torch.float16)
    qconv.bitorch.register()
    qconv.accept_half(False)
    try:
        with pytest.raises(RuntimeError, match="float16"):
            bitorch.convert(nn.Sequential(layer), RuntimeMode.CPU)
    finally:
        qconv.accept_half(True)
    converted = bitorch.convert(nn.Sequential(theirs.QConv1d(4, 4, 3, dtype=torch.float16)), RuntimeMode.CPU)
    assert converted(torch.randn(1, 4, 9).half()).dtype == torch.float16


@pytest.mark.parametrize(
    "options",
    [
        {"pad_value": 0.0, "padding": 2},
        {"gradient_cancellation_threshold": None},
        {"gradient_cancellation_threshold": 0.0},
        {"gradient_cancellation_threshold": 0.5},
        {"padding": 2, "padding_mode": "circular"},
    ],
)
def test_quirks_are_kept(options):
    """Where bitorch does not do what its documentation says, the plug-in does as bitorch does."""
    layer = theirs.QConv1d(4, 6, 3, **options)
    x, grad_output = torch.randn(2, 4, 15, requires_grad=True), None
    results = []
    for _ in range(2):
        y = layer(x)
        grad_output = torch.randn_like(y) if grad_output is None else grad_output
        results.append((y, *torch.autograd.grad(y, [x, layer.weight], grad_output)))
        qconv.bitorch.register()
        bitorch.convert(nn.Sequential(layer), RuntimeMode.CPU)
    assert isinstance(layer, qconv.bitorch.QConv1d)
    for actual, expected in zip(*reversed(results)):
        assert_close(actual, expected)


def instances():
    scheduled = quantizers.Quantization_Scheduler.procedure_classes
    mixed = scheduled["mix_linear"]([quantizers.Identity(), quantizers.InputDoReFa(2), quantizers.Sign()], 5)
    mixed.step()
    stepped = scheduled["step"]([quantizers.ApproxSign(), quantizers.SteHeaviside()], 4)
    for _ in range(3):
        stepped.step()
    nested = scheduled["mix_linear"]([mixed, quantizers.Sign()], 2)
    nested.step()

    class Own(quantizers.Quantization):
        name = "own"

        def quantize(self, x):
            return torch.tanh(x)

    yield from {
        "sign": quantizers.Sign(),
        "approxsign": quantizers.ApproxSign(),
        "swishsign": quantizers.SwishSign(3.0),
        "steheaviside": quantizers.SteHeaviside(),
        "identity": quantizers.Identity(),
        "inputdorefa": quantizers.InputDoReFa(3),
        "weightdorefa": quantizers.WeightDoReFa(2),
        "inputdorefa of 12 bits": quantizers.InputDoReFa(12),
        "progressive": quantizers.ProgressiveSign(use_global_scaling=False, initial_scale=0.1),
        "progressive, evaluated": quantizers.ProgressiveSign().eval(),
        "progressive, transformed": quantizers.ProgressiveSign(False, 0.3, custom_transform=lambda s: s * s),
        "scheduled base": quantizers.ScheduledQuantizer(),
        "mix_linear": mixed,
        "step": stepped,
        "nested": nested,
        "own": Own(),
    }.items()


@pytest.mark.parametrize(("name", "quantizer"), instances(), ids=[name for name, _ in instances()])
def test_instances(name, quantizer):
    x, weight = torch.randn(2, 4, 15), torch.randn(6, 4, 3)
    options = {"padding": 1, "gradient_cancellation_threshold": 0.9}
    for input_quantizer, weight_quantizer in ((quantizer, quantizers.Sign()), (quantizers.Sign(), quantizer)):
        results = []
        for kind in (theirs.QConv1d, qconv.QConv1d):
            layer = kind(4, 6, 3, input_quantization=input_quantizer, weight_quantization=weight_quantizer, **options)
            layer.weight = nn.Parameter(weight.clone())
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            torch.manual_seed(5)
            results.append((y, *torch.autograd.grad(y, [leaf, layer.weight], torch.randn_like(y))))
        for expected, actual in zip(*results):
            assert_close(actual, expected)


def test_schedules_are_followed():
    """bitorch's scheduler replaces quantizers and moves them on, in converted layers too."""
    net, x = nn.Sequential(theirs.QConv1d(4, 4, 3, input_quantization="scheduled_quantizer")), torch.randn(1, 4, 12)
    stages = [quantizers.Identity(), quantizers.Sign()]
    scheduler = quantizers.Quantization_Scheduler(net, 4, stages, "mix_linear")
    twin = nn.Sequential(qconv.QConv1d(4, 4, 3, input_quantization=quantizers.ScheduledQuantizer()))
    twin_scheduler = quantizers.Quantization_Scheduler(twin, 4, stages, "mix_linear")
    twin[0].weight = net[0].weight
    expected = []
    for _ in range(5):
        expected.append(net(x))
        assert_close(twin(x), expected[-1])
        scheduler.step()
        twin_scheduler.step()
    assert not torch.equal(expected[0], expected[-1])


def test_global_scale_is_followed():
    from bitorch.quantizations.progressive_sign import config

    layer = qconv.QConv1d_NoAct(4, 4, 3, weight_quantization=quantizers.ProgressiveSign())
    twin = theirs.QConv1d_NoAct(4, 4, 3, weight_quantization=quantizers.ProgressiveSign())
    twin.weight = layer.weight
    x = torch.randn(1, 4, 12)
    try:
        for scale in (0.0, 0.2, 0.8, 1.0):
            config.progressive_sign_scale = scale
            assert_close(layer(x), twin(x))
    finally:
        config.progressive_sign_scale = 0.0
