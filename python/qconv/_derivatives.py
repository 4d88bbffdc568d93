"""Derivatives beyond the first, and PyTorch's transforms (torch.func, forward mode): layers without quantizers have them,
through PyTorch's own operations. Quantized layers refuse, since straight-through estimates have no derivatives."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _composite
from ._layer import LayerSpec
from ._library import GRAD_INPUT, GRAD_WEIGHT

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
_IDENTITY = ("identity",)

_innermost_transform = torch._C._functorch.peek_interpreter_stack


def transforms_active() -> bool:
    """Whether torch.func or forward mode may look at calls now."""
    return _innermost_transform() is not None or forward_ad._current_level >= 0


def is_float(spec: LayerSpec) -> bool:
    """Whether nothing in the layer is quantized, nor a gradient cancelled."""
    return (
        spec.input_quantization == _IDENTITY
        and spec.weight_quantization == _IDENTITY
        and spec.gradient_cancellation_threshold is None
    )


def _refuse(spec: LayerSpec, what: str) -> RuntimeError:
    return RuntimeError(
        f"qconv: a {spec.layer} of {spec.in_channels} to {spec.out_channels} channels {what}: the gradients of its "
        "quantizers are straight-through estimates, of first order and by backward() only. Layers without quantizers "
        "(qconv.conv1d, torch.nn.Conv1d) have all derivatives"
    )


def through_pytorch(spec: LayerSpec, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """The result for transforms that ask for derivatives; None where none does, so that the operator may be called."""
    if is_float(spec):
        return _composite.forward(spec, x, weight, bias)
    derivatives = {torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp}
    stack = torch._C._functorch.get_interpreter_stack() or []
    tensors = [tensor for tensor in (x, weight, bias) if tensor is not None]
    if any(interpreter.key() in derivatives for interpreter in stack):
        raise _refuse(spec, "cannot be differentiated by torch.func")
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise _refuse(spec, "cannot be differentiated in forward mode")
    if stack and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise _refuse(spec, "has no gradient under torch.vmap (without gradients it runs there)")
    return None


class _Refusal(torch.autograd.Function):
    """The identity, with an error for a gradient."""

    @staticmethod
    def forward(ctx, gradient: Tensor, spec: LayerSpec, *_: Tensor | None) -> Tensor:
        ctx.spec = spec
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, *_: Tensor):
        raise _refuse(ctx.spec, "has no second derivatives")


def differentiable_backward(
    spec: LayerSpec,
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    width: int,
    directions: int,
    bias: bool,
    compute: Callable[[], Gradients],
) -> Gradients:
    """The gradients with gradients enabled, whose own may be asked for. `compute` gives those of quantized layers."""
    if not is_float(spec):
        with torch.no_grad():
            gradients = compute()
        sources = grad_output, weight, x
        return tuple(None if g is None else _Refusal.apply(g, spec, *sources) for g in gradients)
    if x is None:  # kept only where a gradient depends on it
        x = grad_output.new_zeros(()).expand(grad_output.shape[0], spec.in_channels, width)
    needed = bool(directions & GRAD_INPUT), bool(directions & GRAD_WEIGHT), bias
    return _composite.backward(spec, grad_output, x, weight, needed)
