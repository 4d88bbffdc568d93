"""The operators: torch.ops.qconv.{forward, training, backward}, for tensors on the CPU and on CUDA GPUs.

A layer travels as the text of _layer.layer_text; what changes in a schedule as a tensor beside it, so that a compiled graph
outlives the change. `forward` is what programs call and graphs hold. Its gradient calls `training`, which besides y returns
the state that `backward` needs where the layer saves one: the levels and masks of x, bit by bit, instead of x.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import Library

from . import _cache, _derivatives, _kernels, _native
from ._derivatives import Gradients
from ._layer import is_compiling, layer_spec, resolve
from ._library import FORWARD, GRAD_INPUT, GRAD_WEIGHT, SAVES_INPUT

_library = Library("qconv", "DEF")
# New weights are packed on the CPU, which no CUDA graph can hold (PyTorch before 2.8 has no name for that).
_tags = (torch.Tag.pt2_compliant_tag, *filter(None, [getattr(torch.Tag, "cudagraph_unsafe", None)]))
_library.define("forward(Tensor x, Tensor weight, Tensor? bias, str layer, Tensor? values=None) -> Tensor", tags=_tags)
_library.define(
    "training(Tensor x, Tensor weight, Tensor? bias, str layer, int directions, Tensor? values=None) -> "
    "(Tensor, Tensor)",
    tags=_tags,
)
_library.define(
    "backward(Tensor grad_output, Tensor? x, Tensor weight, Tensor state, str layer, SymInt width, int directions, "
    "bool bias, Tensor? values=None) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)
forward = torch.ops.qconv.forward.default
training = torch.ops.qconv.training.default
backward = torch.ops.qconv.backward.default

_float32, _float64, _int32 = torch.float32, torch.float64, torch.int32


def _forward_kernel(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, values: Tensor | None = None
) -> Tensor:
    return _kernels.forward(x, weight, bias, resolve(layer, values))


def _state_or_empty(state: Tensor | None, like: Tensor) -> Tensor:
    """An operator has no optional results."""
    return like.new_empty(0, dtype=_int32) if state is None else state


def _training_kernel(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int, values: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    y, state = _kernels.train(x, weight, bias, resolve(layer, values), directions)
    return y, _state_or_empty(state, x)


def _backward_kernel(
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    state: Tensor,
    layer: str,
    width: int,
    directions: int,
    bias: bool,
    values: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Those not asked for are empty."""
    grads = _kernels.gradients(grad_output, x, weight, state, resolve(layer, values), width, directions, bias)
    return tuple(grad_output.new_empty((0,)) if grad is None else grad.contiguous() for grad in grads)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, values: Tensor | None = None) -> Tensor:
    spec = layer_spec(layer)
    _kernels.check_input(x, weight, bias, spec)
    return x.new_empty((x.shape[0], spec.out_channels, spec.width_out(x.shape[2])))


def _training_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int, values: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    shape = _kernels.state_shape(x, layer_spec(layer), directions)
    return _forward_fake(x, weight, bias, layer), x.new_empty(shape, dtype=torch.int32)


def _backward_fake(
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    state: Tensor,
    layer: str,
    width: int,
    directions: int,
    bias: bool,
    values: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    spec = layer_spec(layer)
    return (
        grad_output.new_empty((grad_output.shape[0], spec.in_channels, width) if directions & GRAD_INPUT else (0,)),
        grad_output.new_empty(spec.weight_shape if directions & GRAD_WEIGHT else (0,)),
        grad_output.new_empty((spec.out_channels,) if bias else (0,)),
    )


def _directly(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether nothing but the kernel would see this call: no compiler, tracer, subclass, mode, transform, and no cast by
    autocast. Then it is called as it is, which saves the dispatcher's way to Python and back."""
    return (
        type(x) is Tensor
        and type(weight) in _PLAIN
        and x.dtype is _float32
        and weight.dtype is _float32
        and (bias is None or bias.dtype is _float32)
        and (x.is_cpu or x.is_cuda)
        and not is_compiling()
        and not x.is_neg()
        and not weight.is_neg()
        and _count_modes() == 0
        and not _derivatives.transforms_active()
        and _tracing_state() is None
    )


_PLAIN = (nn.Parameter, Tensor)
_count_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state


class _Training(torch.autograd.Function):
    """The operator's gradient."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int, values: Tensor | None = None
    ):
        with torch._C._AutoDispatchBelowAutograd():
            y, state = training(x, weight, bias, layer, directions, values)
        keeps_x = x.dtype is _float64 or layer_spec(layer).saved(directions)[0] == SAVES_INPUT
        ctx.save_for_backward(x if keeps_x else None, weight, state, values)
        ctx.call = layer, x.shape[2], directions, bias is not None and bias.requires_grad
        ctx.mark_non_differentiable(state)
        ctx.set_materialize_grads(False)
        return y, state

    @staticmethod
    def backward(ctx, grad_output: Tensor | None, _):
        if grad_output is None:
            return None, None, None, None, None, None
        *saved, values = ctx.saved_tensors
        return *_backward_of(grad_output, *saved, ctx.call, values, _dispatched), None, None, None


def _backward_of(
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    state: Tensor | None,
    call: tuple,
    values: Tensor | None,
    compute: Callable[..., Gradients],
) -> Gradients:
    if not torch.is_grad_enabled():
        return compute(grad_output, x, weight, state, *call, values)
    layer, *rest = call
    return _derivatives.differentiable_backward(
        resolve(layer, values), grad_output, x, weight, *rest,
        lambda: compute(grad_output, x, weight, state, *call, values),
    )  # fmt: skip


def _dispatched(
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    state: Tensor,
    layer: str,
    width: int,
    directions: int,
    bias: bool,
    values: Tensor | None,
) -> Gradients:
    """Those asked for, by the operator."""
    grads = backward(grad_output, x, weight, state, layer, width, directions, bias, values)
    needed = directions & GRAD_INPUT, directions & GRAD_WEIGHT, bias
    return tuple(grad if need else None for grad, need in zip(grads, needed))


class _Direct(torch.autograd.Function):
    """_Training for calls that need no dispatcher (_directly). It is what training in eager mode runs."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int):
        spec = layer_spec(layer)
        y, state = _kernels.train(x, weight, bias, spec, directions)
        ctx.save_for_backward(x if spec.saved(directions)[0] == SAVES_INPUT else None, weight, state)
        ctx.call = layer, x.shape[2], directions, bias is not None and bias.requires_grad
        return y

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        return *_backward_of(grad_output, *ctx.saved_tensors, ctx.call, None, _by_the_shortest_way), None, None


def _by_the_shortest_way(
    grad_output: Tensor, x: Tensor | None, weight: Tensor, state: Tensor | None, layer: str, *call: Any
) -> Gradients:
    if _directly(grad_output, weight, None):
        return _kernels.gradients(grad_output, x, weight, state, layer_spec(layer), *call[:3])
    return _dispatched(grad_output, x, weight, _state_or_empty(state, weight), layer, *call)


# torch.autograd.Function.apply looks for wrappers that transforms have left behind, and goes on to this one.
_train_directly = super(torch.autograd.Function, _Direct).apply


def _directions(x: Tensor, weight: Tensor, bias: Tensor | None) -> int:
    """Those of a call with gradients; 0 if nothing asks for any."""
    directions = 0
    if torch.is_grad_enabled():
        if x.requires_grad:
            directions = FORWARD | GRAD_INPUT
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            directions |= FORWARD | GRAD_WEIGHT
    return directions


def _forward_with_gradient(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, values: Tensor | None = None
) -> Tensor:
    """The operator with gradients. Graphs are captured above this, so that what is exported is `forward` alone."""
    if directions := _directions(x, weight, bias):
        return _Training.apply(x, weight, bias, layer, directions, values)[0]
    with torch._C._AutoDispatchBelowAutograd():
        return forward(x, weight, bias, layer, values)


for _place in ("CPU", "CUDA"):
    _library.impl("forward", _forward_kernel, _place)
    _library.impl("training", _training_kernel, _place)
    _library.impl("backward", _backward_kernel, _place)
_library.impl("forward", _forward_with_gradient, "Autograd")
_library.impl("training", _Training.apply, "Autograd")
for _name, _fake in (("forward", _forward_fake), ("training", _training_fake), ("backward", _backward_fake)):
    torch.library.register_fake(f"qconv::{_name}", _fake, lib=_library)
for _name in ("forward", "training"):
    for _place in ("cpu", "cuda"):
        torch.library.register_autocast(f"qconv::{_name}", _place, _float32, lib=_library)


def _backward_in_python(saved_tensors: tuple, call: tuple, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    """_Direct.backward, of a call that was made natively."""
    return _Direct.backward(SimpleNamespace(saved_tensors=saved_tensors, call=call), grad_output)[:3]


if _native.MODULE is not None:
    _native.MODULE.open(lambda text: bytes(layer_spec(text).config(FORWARD)), _cache.watch, _backward_in_python)
_convolve_natively = None if _native.MODULE is None else _native.MODULE.convolve


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, values: Tensor | None = None
) -> Tensor:
    """The layer, with gradients for whatever asks for them; [in_channels, width] is a batch of one. `values`: of a schedule,
    while torch.compile traces (_layer.layer_call)."""
    if _convolve_natively is not None and type(x) is Tensor and not is_compiling():
        y = _convolve_natively(x, weight, bias, layer)
        if y is not None:
            return y
    if x.dim() == 2:
        return convolve(x.unsqueeze(0), weight, bias, layer, values).squeeze(0)
    if not _directly(x, weight, bias):
        if not is_compiling() and _derivatives.transforms_active():
            y = _derivatives.through_pytorch(layer_spec(layer), x, weight, bias)
            if y is not None:
                return y
        return forward(x, weight, bias, layer, values)
    if directions := _directions(x, weight, bias):
        return _train_directly(x, weight, bias, layer, directions)
    return _kernels.forward(x, weight, bias, layer_spec(layer))
