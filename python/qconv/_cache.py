"""Packed layers, kept with the weight tensor that they were made from."""

import threading
import weakref

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from . import _device, _native
from ._layer import LayerSpec, layer_spec
from ._library import Layer

# A weight has one layer for inference and one for each set of gradients asked for; a scheduled quantizer makes new ones
# as it moves on, and the oldest go.
_LAYERS_PER_WEIGHT = 4


class _Entry:
    __slots__ = ("reference", "lock", "layers")

    def __init__(self, weight: Tensor) -> None:
        key = id(weight)
        self.reference = weakref.ref(weight, lambda _: _entries.pop(key, None))
        self.lock = threading.Lock()
        self.layers: dict[tuple[str, int, int], Layer] = {}  # by text, directions and GPU


_entries: dict[int, _Entry] = {}


def _version(tensor: Tensor) -> int:
    """PyTorch's count of changes in place; it keeps none of inference tensors."""
    return 0 if tensor.is_inference() else tensor._version


def acquire(
    weight: Tensor, bias: Tensor | None, text: str, directions: int, width: int, forward: bool = True
) -> Layer:
    """The layer of these weights, packed anew if they have changed; call users.pop() when done. A new one is packed for
    this width first. Without `forward` it is for backward alone, where the bias plays no part."""
    # The weights' address and version tell of changes by PyTorch, whether in place or to other storage.
    version = _version(weight)
    source = (weight.data_ptr(), version) if bias is None else (weight.data_ptr(), version, bias, _version(bias))
    key = text, directions, _device.place(weight)
    entry = _entries.get(id(weight))
    if entry is not None and entry.reference() is weight:
        layer = entry.layers.get(key)
        if layer is not None:
            # First a user, then the look at the source; _pack does it the other way round. So either this call sees
            # that new weights are coming, or _pack sees that the layer is in use.
            layer.users.append(None)
            if _current(layer, source, forward):
                return layer
            layer.users.pop()
    else:
        entry = _entries[id(weight)] = _Entry(weight)
    with entry.lock:
        layer = entry.layers.get(key)
        if layer is None or not _current(layer, source, forward):
            layer = _pack(entry, layer, weight, bias, key, width)
            layer.source = source
        layer.users.append(None)
    return layer


def reacquire(
    packed: Layer | None, source: tuple, weight: Tensor, text: str, directions: int, width: int
) -> Layer:
    """acquire for backward: the layer that the forward pass used, when it was packed from `source`, if nothing has
    changed since."""
    if packed is not None and source:  # none while another thread packs
        packed.users.append(None)
        if packed.source is source and weight.data_ptr() == source[0]:
            return packed
        packed.users.pop()
    return acquire(weight, None, text, directions, width, forward=False)


def _current(layer: Layer, source: tuple, forward: bool) -> bool:
    kept = layer.source
    if not forward:
        return kept[:2] == source
    if len(source) == 2:
        return kept == source
    return len(kept) == 4 and kept[:2] == source[:2] and kept[2] is source[2] and kept[3] == source[3]


def _pack(
    entry: _Entry, layer: Layer | None, weight: Tensor, bias: Tensor | None, key: tuple[str, int, int], width: int
) -> Layer:
    text, directions, gpu = key
    spec = layer_spec(text)
    _check_shapes(spec, weight, bias)
    # The tensors, not only their addresses: they live until the packing is done, which is the CPU's.
    dense = weight.is_cpu and weight.is_contiguous()
    packed_from = weight if dense else weight.detach().cpu().contiguous()
    bias_from = None if bias is None else bias.detach().cpu().contiguous()
    addresses = packed_from.data_ptr(), None if bias_from is None else bias_from.data_ptr()
    if layer is not None:
        layer.source = ()
        if not layer.users:
            layer.set_weights(*addresses)
            return layer
        # Another thread is inside the old one, which lives until that call returns.
        del entry.layers[key]
    layer = entry.layers[key] = _device.create_layer(gpu, spec.config(directions, width), *addresses)
    if len(entry.layers) > _LAYERS_PER_WEIGHT:
        del entry.layers[next(iter(entry.layers))]
    return layer


def _check_shapes(spec: LayerSpec, weight: Tensor, bias: Tensor | None) -> None:
    if weight.shape != spec.weight_shape:
        raise ValueError(
            f"weight has shape {list(weight.shape)}; a {spec.layer} of {spec.in_channels} to {spec.out_channels} "
            f"channels in {spec.groups} groups with kernel_size {spec.kernel_size} needs {list(spec.weight_shape)}"
        )
    if bias is not None and bias.shape != (spec.out_channels,):
        raise ValueError(f"bias has shape {list(bias.shape)}; out_channels {spec.out_channels} needs one number each")


def forget(weight: Tensor) -> None:
    """Drops what is packed of a weight: after a change that PyTorch does not count, as one through `.data`."""
    _entries.pop(id(weight), None)
    if _native.MODULE is not None:
        _native.MODULE.forget(weight)


def count_weights() -> int:
    """Weights with packed layers."""
    return len(_entries) + (0 if _native.MODULE is None else _native.MODULE.count_weights())


def _count_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Fused optimizers change parameters without counting it, and packed weights would stay what they were."""
    if not torch.compiler.is_compiling():
        changed = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.autograd.graph.increment_version(changed)


register_optimizer_step_post_hook(_count_step)
