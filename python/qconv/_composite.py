"""The same layers in PyTorch's own operations: what double precision runs, and quantizer modules on their own."""

import torch
from torch import Tensor
from torch.nn import functional

from ._layer import LayerSpec, State


def quantize(state: State, v: Tensor) -> Tensor:
    name, *values = state
    match name:
        case "identity":
            return v
        case "sign" | "approxsign" | "swishsign":
            return torch.where(v < 0, -1.0, 1.0).to(v.dtype)
        case "steheaviside":
            return torch.where(v > 0, 1.0, -1.0).to(v.dtype)
        case "inputdorefa":
            levels = 2 ** values[0] - 1
            return torch.round(v.clamp(0, 1) * levels) / levels
        case "weightdorefa":
            levels = 2 ** values[0] - 1
            squashed = torch.tanh(v)
            return 2.0 * torch.round((squashed / (2.0 * squashed.abs().max()) + 0.5) * levels) / levels - 1.0
        case "progressive_sign":
            if not values:
                return quantize(("sign",), v)
            alpha, beta, scale = values
            return functional.hardtanh(v / max(alpha ** (-beta * scale), 1e-7))
        case _:
            first, next_, mix = values
            return (1.0 - mix) * quantize(first, v) + mix * quantize(next_, v)


def derivative(state: State, v: Tensor) -> Tensor | float:
    """The factor that the straight-through estimator puts in quantize's place."""
    name, *values = state
    match name:
        case "approxsign":
            return (2.0 - 2.0 * v.abs()) * (v.abs() <= 1)
        case "swishsign":
            z = values[0] * v
            return values[0] * (2.0 - z * torch.tanh(z / 2)) / (1.0 + torch.cosh(z))
        case "steheaviside":
            return (v.abs() <= 1).to(v.dtype)
        case "scheduled":
            first, next_, mix = values
            return (1.0 - mix) * derivative(first, v) + mix * derivative(next_, v)
        case _:
            return 1.0


class Quantize(torch.autograd.Function):
    """quantize, with derivative as its gradient."""

    @staticmethod
    def forward(v: Tensor, state: State) -> Tensor:
        return v.view_as(v) if state[0] == "identity" else quantize(state, v)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        v, ctx.state = inputs
        ctx.save_for_backward(v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * derivative(ctx.state, ctx.saved_tensors[0]), None


class CancelGradient(torch.autograd.Function):
    """The identity; no gradient passes where |v| exceeds the threshold."""

    @staticmethod
    def forward(v: Tensor, threshold: float) -> Tensor:
        return v.view_as(v)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        v, threshold = inputs
        ctx.save_for_backward(v.abs() <= threshold)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return torch.where(ctx.saved_tensors[0], grad, 0.0), None


def _padded(spec: LayerSpec, x: Tensor) -> Tensor:
    quantized = quantize(spec.input_quantization, x)
    return functional.pad(quantized, (spec.pad_left, spec.pad_right), value=spec.pad_value)


def forward(spec: LayerSpec, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    quantized = quantize(spec.weight_quantization, weight)
    return functional.conv1d(_padded(spec, x), quantized, bias, spec.stride, 0, spec.dilation, spec.groups)


def backward(
    spec: LayerSpec, grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """grad_input, grad_weight, grad_bias: those needed, None for the rest."""
    padded, quantized = _padded(spec, x), quantize(spec.weight_quantization, weight)
    grad_input, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, padded, quantized, [spec.out_channels], [spec.stride], [0], [spec.dilation], False, [0], spec.groups,
        list(needed),
    )  # fmt: skip
    if needed[0]:
        grad_input = grad_input[..., spec.pad_left : spec.pad_left + x.shape[-1]] * derivative(
            spec.input_quantization, x
        )
        if spec.gradient_cancellation_threshold is not None:
            grad_input = torch.where(x.abs() <= spec.gradient_cancellation_threshold, grad_input, 0.0)
    if needed[1]:
        grad_weight = grad_weight * derivative(spec.weight_quantization, weight)
    return grad_input, grad_weight, grad_bias
