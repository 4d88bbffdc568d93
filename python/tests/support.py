"""Shared by the tests: bitorch's golden results, and layers from their descriptions."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qconv

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def make_quantizer(described: Any) -> nn.Module:
    """A module from a layer file's quantizer."""
    if isinstance(described, str):
        described = {"name": described}
    parameters = dict(described)
    name = parameters.pop("name")
    if name == "scheduled":
        stages = [make_quantizer(stage) for stage in parameters.pop("quantizations")]
        return qconv.Scheduled(stages, **parameters)
    training = parameters.pop("training", False)
    if name == "progressive_sign":
        parameters.update(use_global_scaling=False, initial_scale=parameters.pop("scale", None))
    kinds = {kind.name: kind for kind in vars(qconv).values() if isinstance(kind, type) and hasattr(kind, "bit_width")}
    return kinds[name](**parameters).train(training)


def make_layer(described: dict[str, Any], weight: Tensor) -> nn.Module:
    """A module from a layer file's layer; quantizers keep the mode that their description has."""
    keys = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "pad_value")
    options = {key: described[key] for key in keys if key in described}
    for key in ("input_quantization", "weight_quantization"):
        if key in described:
            options[key] = make_quantizer(described[key])
    if described["layer"] == "QConv1d":
        options["gradient_cancellation_threshold"] = described.get("gradient_cancellation_threshold")
    layer = getattr(qconv, described["layer"])(**options)
    layer.weight = nn.Parameter(weight.clone())
    return layer


@dataclass
class Case:
    """One golden case: its layer, its entry, and the arrays that follow one another in the .bin file."""

    layer: dict[str, Any]
    entry: dict[str, Any]
    data: np.ndarray

    @property
    def name(self) -> str:
        return self.entry["name"]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        layer = self.layer
        if "count" in self.entry:
            return {"values": (self.entry["count"],)}
        batch = self.entry["batch"]
        return {
            "x": (batch, layer["in_channels"], self.entry["width"]),
            "weight": (layer["out_channels"], layer["in_channels"] // layer["groups"], layer["kernel_size"]),
            "bias": (layer["out_channels"],) if layer.get("bias") else (0,),
            "y": (batch, layer["out_channels"], self.entry["width_out"]),
        }

    def arrays(self, *names: str) -> list[Tensor]:
        """Tensors of the shapes named, from the case's place on; names may repeat."""
        at, arrays, shapes = self.entry["offset"], [], self.shapes
        for name in names:
            shape = shapes[name]
            count = int(np.prod(shape))
            arrays.append(torch.from_numpy(self.data[at : at + count].reshape(shape).copy()))
            at += count
        return arrays


def golden(stem: str) -> list[Case]:
    layers = json.loads((GOLDEN / f"{stem}_layers.json").read_text())["layers"]
    entries = json.loads((GOLDEN / f"{stem}.json").read_text())["cases"]
    data = np.fromfile(GOLDEN / f"{stem}.bin", dtype="<f4")
    by_name = {layer["name"]: layer for layer in layers}
    return [Case(by_name[entry["name"]], entry, data) for entry in entries]


def assert_close(actual: Tensor, expected: Tensor, exact: bool = False, sums: float = 1e-5) -> None:
    """Equal, or within float32's rounding of sums as large as the largest result."""
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=0.0 if exact else sums * max(scale, 1.0), check_dtype=False
    )


def qconvc() -> Path:
    """The tool that the tests run: QCONVC, or the one of an installed package."""
    return Path(os.environ.get("QCONVC") or Path(qconv.__file__).parent / "bin" / "qconvc")
