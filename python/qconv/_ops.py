"""The operators: torch.ops.qconv.{forward, training, backward}, for tensors on the CPU and on CUDA GPUs.

A layer travels as the text of _layer.layer_text. `forward` is what programs call and graphs hold. Its gradient calls
`training`, which besides y returns the state that `backward` needs where the layer saves one: signs and masks of x, a
few bits an element, instead of x.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from . import _cache, _composite, _derivatives, _device, _native
from ._derivatives import Gradients
from ._layer import LayerSpec, is_compiling, layer_spec
from ._library import (
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    SAVES_INPUT,
    SAVES_STATE,
)

_library = Library("qconv", "DEF")
# New weights are packed on the CPU, which no CUDA graph can hold (PyTorch before 2.8 has no name for that).
_tags = (torch.Tag.pt2_compliant_tag, *filter(None, [getattr(torch.Tag, "cudagraph_unsafe", None)]))
_library.define("forward(Tensor x, Tensor weight, Tensor? bias, str layer) -> Tensor", tags=_tags)
_library.define(
    "training(Tensor x, Tensor weight, Tensor? bias, str layer, int directions) -> (Tensor, Tensor)", tags=_tags
)
_library.define(
    "backward(Tensor grad_output, Tensor? x, Tensor weight, Tensor state, str layer, SymInt width, int directions, "
    "bool bias) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)
forward = torch.ops.qconv.forward.default
training = torch.ops.qconv.training.default
backward = torch.ops.qconv.backward.default

_float32, _float64, _int32 = torch.float32, torch.float64, torch.int32
_TYPES = (_float32, _float64, torch.bfloat16, torch.float16)
_types = _TYPES


def accept_half(accept: bool) -> None:
    """Whether layers take bfloat16 and float16, which are computed in float32 and given back as they came: by default they
    do. Else they are errors, so that no cast goes unnoticed."""
    global _types
    _types = _TYPES if accept else _TYPES[:2]


def _check_input(x: Tensor, weight: Tensor, bias: Tensor | None, spec: LayerSpec) -> None:
    if x.dim() != 3:
        raise ValueError(f"input has {x.dim()} dimensions; it must be [batch, in_channels, width]")
    _, channels, width = x.shape
    if channels != spec.in_channels:
        raise ValueError(f"input has {channels} channels; the layer's in_channels is {spec.in_channels}")
    if weight.shape != spec.weight_shape:
        raise ValueError(
            f"weight has shape {list(weight.shape)}; a {spec.layer} of {spec.in_channels} to {spec.out_channels} "
            f"channels in {spec.groups} groups with kernel_size {spec.kernel_size} needs {list(spec.weight_shape)}"
        )
    if x.dtype not in _types:
        refused = " (qconv.accept_half(False) is in force)" if x.dtype in _TYPES else ""
        raise TypeError(
            f"input is {x.dtype}; qconv computes in float32 (and in float64 through PyTorch): convert it with "
            f".float(){refused}"
        )
    if weight.dtype != x.dtype:
        hint = f": convert one, or run under torch.autocast('{x.device.type}')" if _float64 not in (x.dtype, weight.dtype) else ""
        raise TypeError(f"input is {x.dtype} and weight {weight.dtype}; they must be alike{hint}")
    if weight.device != x.device:
        raise ValueError(f"input is on {x.device} and weight on {weight.device}; they must be on one device")
    if bias is not None:
        if bias.dtype != x.dtype:
            raise TypeError(f"input is {x.dtype} and bias {bias.dtype}; they must be alike")
        if bias.device != x.device:
            raise ValueError(f"input is on {x.device} and bias on {bias.device}; they must be on one device")
        if bias.shape != (spec.out_channels,):
            raise ValueError(
                f"bias has shape {list(bias.shape)}; out_channels {spec.out_channels} needs one number each"
            )
    if spec.width_out(width) < 1:
        raise ValueError(
            f"width is {width}; with its padding ({width + spec.pad_left + spec.pad_right}) it must be at least the "
            f"window, {spec.dilation * (spec.kernel_size - 1) + 1}"
        )


def _forward_kernel(x: Tensor, weight: Tensor, bias: Tensor | None, layer: str) -> Tensor:
    spec = layer_spec(layer)
    _check_input(x, weight, bias, spec)
    if x.dtype is _float64:
        with torch._C._AutoDispatchBelowAutograd():
            return _composite.forward(spec, x, weight, bias)
    dtype = x.dtype
    x = x.float().contiguous()
    batch, _, width = x.shape
    y = x.new_empty(batch, spec.out_channels, spec.width_out(width))
    place = _device.of(weight)
    packed = _cache.acquire(weight, bias, spec, FORWARD, batch, width, place)
    try:
        place.forward(packed, x.data_ptr(), batch, width, y.data_ptr())
    finally:
        _cache.release(packed)
    return y.to(dtype)


def _state_shape(x: Tensor, spec: LayerSpec, directions: int) -> tuple[int, ...]:
    if x.dtype is _float64 or spec.saved(directions) != SAVES_STATE:
        return (0,)
    # Three dimensions: compilers like to turn tensors of four into channels-last.
    return x.shape[0], x.shape[1], spec.state_width(directions, x.shape[2])


def _train(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int
) -> tuple[Tensor, Tensor | None, int]:
    """y, the state if the layer saves one, and what it saves."""
    spec = layer_spec(layer)
    _check_input(x, weight, bias, spec)
    dtype = x.dtype
    x = x.float().contiguous()
    batch, channels, width = x.shape
    saves, place = spec.saved(directions), _device.of(weight)
    # Sizes one by one: PyTorch reads a tuple of them more slowly.
    y = x.new_empty(batch, spec.out_channels, spec.width_out(width))
    state = None
    if saves == SAVES_STATE:
        state = x.new_empty(batch, channels, spec.state_width(directions, width), dtype=_int32)
    into = (None, 0) if state is None else (state.data_ptr(), state.nbytes)
    packed = _cache.acquire(weight, bias, spec, directions, batch, width, place)
    try:
        place.forward_training(packed, x.data_ptr(), batch, width, y.data_ptr(), *into)
    finally:
        _cache.release(packed)
    return y.to(dtype), state, saves


def _state_or_empty(state: Tensor | None, like: Tensor) -> Tensor:
    """An operator has no optional results."""
    return like.new_empty(0, dtype=_int32) if state is None else state


def _training_kernel(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int
) -> tuple[Tensor, Tensor]:
    if x.dtype is _float64:
        spec = layer_spec(layer)
        _check_input(x, weight, bias, spec)
        with torch._C._AutoDispatchBelowAutograd():
            return _composite.forward(spec, x, weight, bias), _state_or_empty(None, x)
    y, state, _ = _train(x, weight, bias, layer, directions)
    return y, _state_or_empty(state, x)


def _gradients(
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    state: Tensor | None,
    layer: str,
    width: int,
    directions: int,
    bias: bool,
) -> Gradients:
    """Those asked for."""
    spec = layer_spec(layer)
    grad_output = grad_output.float().contiguous()
    batch = grad_output.shape[0]
    new = grad_output.new_empty if batch else grad_output.new_zeros
    grad_input = new(batch, spec.in_channels, width) if directions & GRAD_INPUT else None
    grad_weight = new(*spec.weight_shape) if directions & GRAD_WEIGHT else None
    grad_bias = new(spec.out_channels) if bias else None
    if batch == 0:
        return _converted(weight.dtype, grad_input, grad_weight, grad_bias)
    if state is not None:
        state = state.contiguous()
    if x is not None:
        x = x.float().contiguous()
    place = _device.of(weight)
    packed = _cache.acquire(weight, None, spec, directions, batch, width, place, backward=True)
    try:
        place.backward(
            packed,
            None if x is None else x.data_ptr(),
            None if state is None else state.data_ptr(),
            0 if state is None else state.nbytes,
            grad_output.data_ptr(),
            batch,
            width,
            None if grad_input is None else grad_input.data_ptr(),
            None if grad_weight is None else grad_weight.data_ptr(),
            None if grad_bias is None else grad_bias.data_ptr(),
        )
    finally:
        _cache.release(packed)
    return _converted(weight.dtype, grad_input, grad_weight, grad_bias)


def _converted(dtype: torch.dtype, *gradients: Tensor | None) -> Gradients:
    return tuple(None if gradient is None else gradient.to(dtype) for gradient in gradients)


def _backward_kernel(
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    state: Tensor,
    layer: str,
    width: int,
    directions: int,
    bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Those not asked for are empty."""
    if grad_output.dtype is _float64:
        needed = bool(directions & GRAD_INPUT), bool(directions & GRAD_WEIGHT), bias
        with torch._C._AutoDispatchBelowAutograd():
            grads = _composite.backward(layer_spec(layer), grad_output, x, weight, needed)
    else:
        grads = _gradients(grad_output, x, weight, state, layer, width, directions, bias)
    return tuple(grad_output.new_empty((0,)) if grad is None else grad.contiguous() for grad in grads)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, layer: str) -> Tensor:
    spec = layer_spec(layer)
    _check_input(x, weight, bias, spec)
    return x.new_empty((x.shape[0], spec.out_channels, spec.width_out(x.shape[2])))


def _training_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int
) -> tuple[Tensor, Tensor]:
    shape = _state_shape(x, layer_spec(layer), directions)
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


_count_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state


class _Training(torch.autograd.Function):
    """The operator's gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int):
        with torch._C._AutoDispatchBelowAutograd():
            y, state = training(x, weight, bias, layer, directions)
        keeps_x = x.dtype is _float64 or layer_spec(layer).saved(directions) == SAVES_INPUT
        ctx.save_for_backward(x if keeps_x else None, weight, state)
        ctx.call = layer, x.shape[2], directions, bias is not None and bias.requires_grad
        ctx.mark_non_differentiable(state)
        ctx.set_materialize_grads(False)
        return y, state

    @staticmethod
    def backward(ctx, grad_output: Tensor | None, _):
        if grad_output is None:
            return None, None, None, None, None
        return *_backward_of(ctx, grad_output, _dispatched), None, None


def _backward_of(ctx, grad_output: Tensor, compute: Callable[..., Gradients]) -> Gradients:
    x, weight, state = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return compute(grad_output, x, weight, state, *ctx.call)
    layer, *call = ctx.call
    return _derivatives.differentiable_backward(
        layer_spec(layer), grad_output, x, weight, *call,
        lambda: compute(grad_output, x, weight, state, layer, *call),
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
) -> Gradients:
    """Those asked for, by the operator."""
    grads = backward(grad_output, x, weight, state, layer, width, directions, bias)
    needed = directions & GRAD_INPUT, directions & GRAD_WEIGHT, bias
    return tuple(grad if need else None for grad, need in zip(grads, needed))


class _Direct(torch.autograd.Function):
    """_Training for calls that need no dispatcher (_directly). It is what training in eager mode runs."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, layer: str, directions: int):
        y, state, saves = _train(x, weight, bias, layer, directions)
        ctx.save_for_backward(x if saves == SAVES_INPUT else None, weight, state)
        ctx.call = layer, x.shape[2], directions, bias is not None and bias.requires_grad
        return y

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        return *_backward_of(ctx, grad_output, _by_the_shortest_way), None, None


def _by_the_shortest_way(
    grad_output: Tensor, x: Tensor | None, weight: Tensor, state: Tensor | None, *call: Any
) -> Gradients:
    if _directly(grad_output, weight, None):
        return _gradients(grad_output, x, weight, state, *call)
    return _dispatched(grad_output, x, weight, _state_or_empty(state, weight), *call)


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


def _forward_with_gradient(x: Tensor, weight: Tensor, bias: Tensor | None, layer: str) -> Tensor:
    """The operator with gradients. Graphs are captured above this, so that what is exported is `forward` alone."""
    if directions := _directions(x, weight, bias):
        return _Training.apply(x, weight, bias, layer, directions)[0]
    with torch._C._AutoDispatchBelowAutograd():
        return forward(x, weight, bias, layer)


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


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, layer: str) -> Tensor:
    """The layer, with gradients for whatever asks for them; [in_channels, width] is a batch of one."""
    if _convolve_natively is not None and type(x) is Tensor and not is_compiling():
        y = _convolve_natively(x, weight, bias, layer)
        if y is not None:
            return y
    if x.dim() == 2:
        return convolve(x.unsqueeze(0), weight, bias, layer).squeeze(0)
    if not _directly(x, weight, bias):
        if not is_compiling() and _derivatives.transforms_active():
            y = _derivatives.through_pytorch(layer_spec(layer), x, weight, bias)
            if y is not None:
                return y
        return forward(x, weight, bias, layer)
    if directions := _directions(x, weight, bias):
        return _train_directly(x, weight, bias, layer, directions)
    return _forward_kernel(x, weight, bias, layer)
