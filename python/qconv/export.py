"""Writes a model's convolutions as a layer file with weights, ready for `qconvc compile`.

    python -m qconv.export package.module:factory checkpoint.pt -o FOLDER

`factory` makes the model (a class or a function without arguments); the checkpoint is its state_dict, alone or among what
a trainer saves with it (_checkpoint.py).
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ._checkpoint import load_checkpoint
from ._layer import LayerSpec
from .modules import QConv1d_NoAct, threshold
from .quantizers import quantizer_state


def _state(name: str, role: str, quantizer: nn.Module) -> Any:
    state = quantizer_state(quantizer)
    if state is None:
        raise ValueError(
            f"{name}: its {role} quantizer {type(quantizer).__name__} runs in PyTorch only and cannot be compiled; use "
            "one of qconv's or bitorch's"
        )
    return state


def _is_quantized(module: nn.Module) -> bool:
    """qconv's layers, and bitorch's in whatever mode, recognised without importing bitorch."""
    return isinstance(module, nn.Conv1d) and hasattr(module, "_weight_quantize") and hasattr(module, "_pad_value")


def layer_of(name: str, module: nn.Conv1d) -> dict[str, Any]:
    """One entry of a layer file (docs/qconvc.md)."""
    quantized = _is_quantized(module)
    ours = isinstance(module, QConv1d_NoAct)
    if module.padding_mode != "zeros" and (ours or not quantized):
        raise ValueError(f"{name}: padding_mode is {module.padding_mode!r}; a compiled layer pads with a constant")
    activation = getattr(module, "activation", None) if quantized else None
    limit = None if activation is None else threshold(activation.gradient_cancellation_threshold)
    left, right = module._reversed_padding_repeated_twice
    identity = ("identity",)
    spec = LayerSpec(
        layer="conv1d" if not quantized else "QConv1d_NoAct" if activation is None else "QConv1d",
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel_size=module.kernel_size[0],
        stride=module.stride[0],
        pad_left=left,
        pad_right=right,
        dilation=module.dilation[0],
        groups=module.groups,
        pad_value=float(module._pad_value) if quantized else 0.0,
        input_quantization=identity if activation is None else _state(name, "input", activation.activation_function),
        weight_quantization=_state(name, "weight", module._weight_quantize) if quantized else identity,
        gradient_cancellation_threshold=limit,
    )
    return {"name": name, **spec.to_json(), **({"bias": True} if module.bias is not None else {})}


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv1d]]:
    """Every Conv1d and quantized 1-D convolution, in the order of the model, by a name fit for files and C."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv1d):
            yield path.replace(".", "_") or "layer", module


def _write(path: Path, write: Any) -> None:
    """Beside its place, then renamed."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as beside:
        try:
            write(beside)
        except BaseException:
            os.unlink(beside.name)
            raise
    os.chmod(beside.name, 0o644)
    os.replace(beside.name, path)


def export(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Writes FOLDER/layers.json and FOLDER/weights/<layer>_{weight,bias}.npy; returns the path of the layer file.

    Layers are described as they are in evaluation. A name is the module's path with underscores for dots.
    """
    import numpy

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        layers, tensors = [], {}
        for name, module in convolutions(model):
            if any(layer["name"] == name for layer in layers):
                raise ValueError(f"two layers would be called {name!r}: rename one of the modules")
            layers.append(layer_of(name, module))
            tensors[f"{name}_weight"] = module.weight
            if module.bias is not None:
                tensors[f"{name}_bias"] = module.bias
    finally:
        for module, mode in training.items():
            module.training = mode
    if not layers:
        raise ValueError(f"{type(model).__name__} has no 1-D convolution to export")
    folder = Path(folder)
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    for name, tensor in tensors.items():
        array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        _write(folder / "weights" / f"{name}.npy", lambda file, array=array: numpy.save(file, array))
    lines = ",\n".join("  " + json.dumps(layer) for layer in layers)
    _write(folder / "layers.json", lambda file: file.write(f'{{"layers": [\n{lines}\n]}}\n'.encode()))
    return folder / "layers.json"


def _make_model(factory: str) -> nn.Module:
    module, _, name = factory.partition(":")
    if not name:
        raise ValueError(f"model is {factory!r}; it must be module:factory, as in my_package.nets:Tcn")
    sys.path.insert(0, os.getcwd())
    made: Any = importlib.import_module(module)
    for part in name.split("."):
        made = getattr(made, part)
    return made()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m qconv.export", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="module:factory; the factory takes no arguments and returns the model")
    parser.add_argument("checkpoint", help="its state_dict, or a trainer's dictionary around it, as torch.save wrote it")
    parser.add_argument(
        "--unpickle",
        action="store_true",
        help="take any objects from the checkpoint, whole models too; runs whatever code the file holds",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="gets layers.json and weights/")
    options = parser.parse_args(arguments)
    try:
        model = _make_model(options.model)
        load_checkpoint(model, options.checkpoint, options.unpickle)
        path = export(model, options.output)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        print(f"qconv.export: {error}", file=sys.stderr)
        return 2
    layers = json.loads(path.read_text())["layers"]
    count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
    print(f"{path}: {count}: {', '.join(layer['name'] for layer in layers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
