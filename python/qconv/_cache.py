"""Packed layers, kept with the weight tensor that they were made from."""

import threading
import weakref

from torch import Tensor

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
        self.layers: dict[tuple[str, int], Layer] = {}


_entries: dict[int, _Entry] = {}


def _source(weight: Tensor, bias: Tensor | None) -> tuple[int, ...]:
    """Changes when PyTorch changes the weights, in place or by other storage."""
    # Inference tensors count no versions.
    version = 0 if weight.is_inference() else weight._version
    if bias is None:
        return weight.data_ptr(), version
    return weight.data_ptr(), version, id(bias), bias.data_ptr(), 0 if bias.is_inference() else bias._version


def _check_shapes(spec: LayerSpec, weight: Tensor, bias: Tensor | None) -> None:
    if weight.shape != spec.weight_shape():
        raise ValueError(
            f"weight has shape {list(weight.shape)}; a {spec.layer} of {spec.in_channels} to {spec.out_channels} "
            f"channels in {spec.groups} groups with kernel_size {spec.kernel_size} needs {list(spec.weight_shape())}"
        )
    if bias is not None and bias.shape != (spec.out_channels,):
        raise ValueError(f"bias has shape {list(bias.shape)}; out_channels {spec.out_channels} needs one number each")


def acquire(weight: Tensor, bias: Tensor | None, text: str, directions: int, forward: bool = True) -> Layer:
    """The layer of these weights, packed anew if they have changed; give it back with release(). Without `forward` it is
    for backward alone, where the bias plays no part."""
    entry = _entries.get(id(weight))
    if entry is None or entry.reference() is not weight:
        entry = _entries[id(weight)] = _Entry(weight)
    source = _source(weight, bias)
    with entry.lock:
        layer = entry.layers.get((text, directions))
        if layer is None or (layer.source != source if forward else layer.source[:2] != source):
            layer = _pack(entry, layer, weight, bias, text, directions)
            layer.source = source
        layer.users += 1
    return layer


def _pack(
    entry: _Entry, layer: Layer | None, weight: Tensor, bias: Tensor | None, text: str, directions: int
) -> Layer:
    spec = layer_spec(text)
    _check_shapes(spec, weight, bias)
    packed_from = weight.detach().contiguous()
    bias_from = None if bias is None else bias.detach().contiguous()
    if layer is not None and layer.users == 0:
        layer.set_weights(packed_from, bias_from)
        return layer
    # Another thread may be inside the old one, which lives until that call returns.
    entry.layers.pop((text, directions), None)
    layer = entry.layers[text, directions] = Layer(spec.config(directions), packed_from, bias_from, entry.lock)
    if len(entry.layers) > _LAYERS_PER_WEIGHT:
        del entry.layers[next(iter(entry.layers))]
    return layer


def release(layer: Layer) -> None:
    with layer.lock:
        layer.users -= 1


def forget(weight: Tensor) -> None:
    """Drops what is packed of a weight: after a change that PyTorch does not count, as one through `.data`."""
    _entries.pop(id(weight), None)
