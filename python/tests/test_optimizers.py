"""Layers see every change that an optimizer makes of their weights."""

import copy

import pytest
import torch

import qconv

KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.5, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.5, foreach=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.5, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.5, fused=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_seen(kind: str) -> None:
    """PyTorch's fused optimizers change parameters without counting it."""
    torch.manual_seed(0)
    layer = qconv.QConv1d(8, 8, 3, padding=1)
    optimizer = KINDS[kind](layer.parameters())
    x = torch.randn(2, 8, 16)
    for _ in range(3):
        with torch.no_grad():
            before = layer(x)  # packs the weights for inference, too
        layer(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        fresh = copy.deepcopy(layer)
        with torch.no_grad():
            assert torch.equal(layer(x), fresh(x))
        assert torch.equal(layer(x), fresh(x))
        assert not torch.equal(layer(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_a_bias_alone_is_seen(kind: str) -> None:
    weight, bias = torch.randn(4, 4, 3), torch.nn.Parameter(torch.zeros(4))
    optimizer = KINDS[kind]([bias])
    x = torch.randn(1, 4, 8)
    with torch.no_grad():
        qconv.conv1d(x, weight, bias)  # packs them
    qconv.conv1d(x, weight, bias).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(qconv.conv1d(x, weight, bias), torch.nn.functional.conv1d(x, weight, bias))
