"""What a layer computes, as plain data. Its text form, a layer of qconvc's layer files, is what the operators take: a
compiled graph then holds all that it needs.

A quantizer is a tuple of its name and its parameters:
    ("sign",) ("approxsign",) ("steheaviside",) ("identity",) ("swishsign", beta) ("inputdorefa", bits)
    ("weightdorefa", bits) ("progressive_sign",) in evaluation, ("progressive_sign", alpha, beta, scale) in training
    ("scheduled", first, next, mix): (1 - mix) * first + mix * next
"""

import json
import math
import re
from ctypes import addressof, byref
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _library as c

State = tuple[Any, ...]

PARAMETERS = {
    "swishsign": ("beta",),
    "inputdorefa": ("bits",),
    "weightdorefa": ("bits",),
    "progressive_sign": ("alpha", "beta", "scale"),
}


def quantizer_to_json(state: State) -> Any:
    name, *values = state
    if name == "scheduled":
        first, next_, mix = values
        stages = [quantizer_to_json(first), quantizer_to_json(next_)]
        return {"name": "scheduled", "procedure": "mix_linear", "quantizations": stages, "factor": mix}
    if not values:
        return name
    described = {"name": name, **dict(zip(PARAMETERS[name], values, strict=True))}
    return {**described, "training": True} if name == "progressive_sign" else described


def quantizer_from_json(described: Any) -> State:
    if isinstance(described, str):
        return (described,)
    name = described["name"]
    if name == "scheduled":
        first, next_ = described["quantizations"]
        return ("scheduled", quantizer_from_json(first), quantizer_from_json(next_), described["factor"])
    return (name, *(described[key] for key in PARAMETERS[name]))


def _c_quantizer(state: State) -> c.Quantizer:
    name, *values = state
    quantizer = c.LIBRARY.qconv_quantizer_default(c.QUANTIZER_KINDS.index(name))
    for key, value in zip(PARAMETERS.get(name, ()), values):
        setattr(quantizer, key, value)
    quantizer.training = int(name == "progressive_sign" and bool(values))
    return quantizer


def _c_mixed(state: State) -> tuple[c.Quantizer, c.Quantizer, float]:
    if state[0] == "scheduled":
        return _c_quantizer(state[1]), _c_quantizer(state[2]), state[3]
    return _c_quantizer(state), _c_quantizer(state), 0.0


@dataclass(frozen=True)
class LayerSpec:
    """One layer; the fields are those of the layer file, with the padding resolved to two numbers."""

    layer: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    pad_left: int
    pad_right: int
    dilation: int
    groups: int
    pad_value: float
    input_quantization: State
    weight_quantization: State
    gradient_cancellation_threshold: float | None
    _saved: dict[int, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    _configs: dict[int, c.LayerConfig] = field(default_factory=dict, compare=False, repr=False)
    _addresses: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        described: dict[str, Any] = {"layer": self.layer}
        for key in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"):
            described[key] = getattr(self, key)
        described["padding"] = [self.pad_left, self.pad_right]
        if self.layer != "conv1d":
            described["pad_value"] = self.pad_value
            described["weight_quantization"] = quantizer_to_json(self.weight_quantization)
        if self.layer == "QConv1d":
            described["input_quantization"] = quantizer_to_json(self.input_quantization)
            described["gradient_cancellation_threshold"] = self.gradient_cancellation_threshold
        return described

    @cached_property
    def weight_shape(self) -> tuple[int, int, int]:
        return self.out_channels, self.in_channels // self.groups, self.kernel_size

    def width_out(self, width: Any) -> Any:
        """Of a number or a symbol. Too narrow an input gives less than 1."""
        return (width + self.pad_left + self.pad_right - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1

    def config(self, directions: int) -> c.LayerConfig:
        """Made once: not to be changed."""
        config = self._configs.get(directions)
        if config is None:
            config = self._configs[directions] = self._make_config(directions)
        return config

    def config_address(self, directions: int) -> int:
        """Of config(directions), which lives as long as this."""
        address = self._addresses.get(directions)
        if address is None:
            address = self._addresses[directions] = addressof(self.config(directions))
        return address

    def _make_config(self, directions: int) -> c.LayerConfig:
        config = c.LayerConfig()
        c.LIBRARY.qconv_layer_config_init(byref(config), c.LAYER_KINDS.index(self.layer))
        for key in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "pad_left"):
            setattr(config, key, getattr(self, key))
        config.pad_right = self.pad_right
        config.pad_value = self.pad_value
        config.input_quantization, config.input_next, config.input_mix = _c_mixed(self.input_quantization)
        config.weight_quantization, config.weight_next, config.weight_mix = _c_mixed(self.weight_quantization)
        threshold = self.gradient_cancellation_threshold
        config.gradient_cancellation_threshold = math.nan if threshold is None else threshold
        config.directions = directions
        return config

    def saved(self, directions: int) -> tuple[int, int]:
        """What backward needs of the forward pass (SAVES_...), and the planes of a state."""
        answer = self._saved.get(directions)
        if answer is None:
            answer = self._saved[directions] = c.saved(self.config(directions))
        return answer


# By one name: a call looks for it several times.
is_compiling = torch.compiler.is_compiling

_texts: dict[State, str] = {}


def layer_text(*fields: Any) -> str:
    """The text form of LayerSpec(*fields)."""
    text = _texts.get(fields)
    if text is None:
        if len(_texts) >= 1024:
            _texts.clear()
        text = _texts[fields] = _write(fields)
    return text


def layer_call(*fields: Any) -> tuple[str, Tensor | None]:
    """What _ops.convolve takes of LayerSpec(*fields)."""
    return _traced_layer(fields) if is_compiling() else (layer_text(*fields), None)


def _traced_layer(fields: State) -> tuple[str, Tensor | None]:
    """layer_text while torch.compile traces: numbers of schedules are left open in the text, and are in the tensor. As they
    change from one epoch to the next, a graph serves them all."""
    values: list[Any] = []
    text = _traced_text(_constants(tuple(_take_values(f, values) if isinstance(f, tuple) else f for f in fields)))
    if not values:
        return text, None
    # In this form, and in few others, compilers take numbers that vary.
    zero = torch.zeros(1, dtype=torch.float64)
    return text, torch.cat([zero + value for value in values])


def _take_values(state: State, values: list[Any]) -> State:
    """A quantizer's state with names for its numbers that a schedule changes."""
    name, *rest = state
    if name == "scheduled":
        rest = [_take_values(rest[0], values), _take_values(rest[1], values), rest[2]]
    if name == "scheduled" or (name == "progressive_sign" and rest):
        values.append(rest[-1])
        rest[-1] = f"${len(values) - 1}"
    return (name, *rest)


def resolve(text: str, values: Tensor | None) -> LayerSpec:
    """The layer of a text, with its open numbers."""
    return layer_spec(text if values is None else _fill(text, values.tolist()))


def _fill(text: str, values: list[float]) -> str:
    for index, value in enumerate(values):
        text = text.replace(f'"${index}"', repr(value))
    return text


@torch.compiler.assume_constant_result  # The graph holds the text; _constants has put guards on all it is made from.
def _traced_text(fields: State) -> str:
    return _write(fields)


def _write(fields: State) -> str:
    # bitorch's layers may hold NumPy's integers.
    return json.dumps(LayerSpec(*fields).to_json(), separators=(",", ":"), default=int)


def _constants(value: Any) -> Any:
    """While torch.compile traces, numbers may be symbols. Members of a set cannot: this makes them constants, and the
    graph is compiled anew when they change."""
    if isinstance(value, tuple):
        return tuple(_constants(item) for item in value)
    (constant,) = {value}
    return constant


@lru_cache(maxsize=1024)
def layer_spec(text: str) -> LayerSpec:
    """The layer of a text that layer_text or layer_call wrote. What a schedule leaves open changes neither shapes nor what
    is saved: any number does for those."""
    described = json.loads(re.sub(r'"\$\d+"', "0.5", text))
    padding = described.pop("padding")
    described["pad_left"], described["pad_right"] = padding
    described.setdefault("pad_value", 0.0)
    described.setdefault("gradient_cancellation_threshold", None)
    for key in ("input_quantization", "weight_quantization"):
        described[key] = quantizer_from_json(described.get(key, "identity"))
    return LayerSpec(**described)
