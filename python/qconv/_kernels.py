"""What the operators compute, on the tensors of one call: checks, then libqconv (PyTorch in float64)."""

import torch
from torch import Tensor

from . import _cache, _composite, _device
from ._derivatives import Gradients
from ._layer import LayerSpec
from ._library import FORWARD, GRAD_INPUT, GRAD_WEIGHT, SAVES_STATE

_float32, _float64, _int32 = torch.float32, torch.float64, torch.int32
_TYPES = (_float32, _float64, torch.bfloat16, torch.float16)
_types = _TYPES


def accept_half(accept: bool) -> None:
    """Whether layers take bfloat16 and float16, which are computed in float32 and given back as they came: by default they
    do. Else they are errors, so that no cast goes unnoticed."""
    global _types
    _types = _TYPES if accept else _TYPES[:2]


def accepted_types() -> tuple[torch.dtype, ...]:
    return _types


def _check_type(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.dtype not in _types:
        refused = " (qconv.accept_half(False) is in force)" if x.dtype in _TYPES else ""
        raise TypeError(
            f"input is {x.dtype}; qconv computes in float32 (and in float64 through PyTorch): convert it with "
            f".float(){refused}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            casts = _float64 not in (x.dtype, tensor.dtype)
            hint = f": convert one, or run under torch.autocast('{x.device.type}')" if casts else ""
            raise TypeError(f"input is {x.dtype} and {name} {tensor.dtype}; they must be alike{hint}")


def _check_place(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"input is on {x.device} and {name} on {tensor.device}; they must be on one device")


def check_input(x: Tensor, weight: Tensor, bias: Tensor | None, spec: LayerSpec) -> None:
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
    if bias is not None and bias.shape != (spec.out_channels,):
        raise ValueError(f"bias has shape {list(bias.shape)}; out_channels {spec.out_channels} needs one number each")
    # Of most calls one look says that all is well.
    if not (x.dtype is _float32 is weight.dtype and (bias is None or bias.dtype is _float32)):
        _check_type(x, weight, bias)
    if not (x.is_cpu and weight.is_cpu and (bias is None or bias.is_cpu)):
        _check_place(x, weight, bias)
    if spec.width_out(width) < 1:
        raise ValueError(
            f"width is {width}; with its padding ({width + spec.pad_left + spec.pad_right}) it must be at least the "
            f"window, {spec.dilation * (spec.kernel_size - 1) + 1}"
        )


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, spec: LayerSpec) -> Tensor:
    check_input(x, weight, bias, spec)
    dtype = x.dtype
    if dtype is _float64:
        with torch._C._AutoDispatchBelowAutograd():
            return _composite.forward(spec, x, weight, bias)
    x = (x if dtype is _float32 else x.float()).contiguous()
    batch, _, width = x.shape
    y = x.new_empty(batch, spec.out_channels, spec.width_out(width))
    place = _device.of(weight)
    packed = _cache.acquire(weight, bias, spec, FORWARD, batch, width, place)
    try:
        place.forward(packed, x.data_ptr(), batch, width, y.data_ptr())
    finally:
        _cache.release(packed)
    return y if dtype is _float32 else y.to(dtype)


def state_shape(x: Tensor, spec: LayerSpec, directions: int) -> tuple[int, ...]:
    saves, planes = spec.saved(directions)
    if x.dtype is _float64 or saves != SAVES_STATE:
        return (0,)
    # Three dimensions: compilers like to turn tensors of four into channels-last.
    return x.shape[0], x.shape[1], _state_width(planes, x.shape[2])


def _state_width(planes: int, width: int) -> int:
    """Words of a row of x, plane after plane."""
    return planes * ((width + 31) // 32)


def train(
    x: Tensor, weight: Tensor, bias: Tensor | None, spec: LayerSpec, directions: int
) -> tuple[Tensor, Tensor | None]:
    """y, and the state if the layer saves one."""
    if x.dtype is _float64:
        return forward(x, weight, bias, spec), None
    check_input(x, weight, bias, spec)
    dtype = x.dtype
    x = (x if dtype is _float32 else x.float()).contiguous()
    batch, channels, width = x.shape
    place = _device.of(weight)
    # Sizes one by one: PyTorch reads a tuple of them more slowly.
    y = x.new_empty(batch, spec.out_channels, spec.width_out(width))
    state, into = None, (None, 0)
    saves, planes = spec.saved(directions)
    if saves == SAVES_STATE:
        state = x.new_empty(batch, channels, _state_width(planes, width), dtype=_int32)
        into = state.data_ptr(), state.nbytes
    packed = _cache.acquire(weight, bias, spec, directions, batch, width, place)
    try:
        place.forward_training(packed, x.data_ptr(), batch, width, y.data_ptr(), *into)
    finally:
        _cache.release(packed)
    return (y if dtype is _float32 else y.to(dtype)), state


def gradients(
    grad_output: Tensor,
    x: Tensor | None,
    weight: Tensor,
    state: Tensor | None,
    spec: LayerSpec,
    width: int,
    directions: int,
    bias: bool,
) -> Gradients:
    """Those asked for."""
    dtype = grad_output.dtype
    if dtype is _float64:
        needed = bool(directions & GRAD_INPUT), bool(directions & GRAD_WEIGHT), bias
        with torch._C._AutoDispatchBelowAutograd():
            return _composite.backward(spec, grad_output, x, weight, needed)
    grad_output = grad_output.float().contiguous()
    batch = grad_output.shape[0]
    new = grad_output.new_empty if batch else grad_output.new_zeros
    grad_input = new(batch, spec.in_channels, width) if directions & GRAD_INPUT else None
    grad_weight = new(*spec.weight_shape) if directions & GRAD_WEIGHT else None
    grad_bias = new(spec.out_channels) if bias else None
    if batch:
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
    if dtype is _float32:
        return grad_input, grad_weight, grad_bias
    return tuple(None if grad is None else grad.to(dtype) for grad in (grad_input, grad_weight, grad_bias))
