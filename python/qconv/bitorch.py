"""qconv inside bitorch: `register()` makes bitorch's QConv1d run here in RuntimeMode.CPU.

    import bitorch, qconv.bitorch
    qconv.bitorch.register()
    bitorch.convert(model, bitorch.RuntimeMode.CPU)

A converted layer keeps its weight and its quantizers, the very objects, so that optimizers, schedulers and checkpoints
stay valid. It follows bitorch where its behaviour differs from its documentation (docs/python.md).
"""

from typing import Any

import torch
from bitorch import RuntimeMode
from bitorch.layers.extensions import CustomImplementationMixin, LayerImplementation, LayerRecipe, LayerRegistry
from bitorch.layers.qconv1d import QConv1dBase
from bitorch.layers.qconv2d import QConv2dBase
from bitorch.layers.qconv3d import QConv3dBase
from bitorch.layers.qlinear import QLinearBase
from bitorch.layers.register import q_conv1d_registry, q_conv2d_registry, q_conv3d_registry, q_linear_registry
from torch import Tensor

from ._kernels import accepted_types
from .export import export
from .modules import convolve_module

__all__ = ["export", "register"]


class _Clone(CustomImplementationMixin):
    """Takes over another implementation's state as it is."""

    @classmethod
    def create_clone_from(cls, recipe: LayerRecipe, device: torch.device | None = None) -> Any:
        original = recipe.layer.layer_implementation
        clone = cls.__new__(cls)
        clone.__dict__.update(original.__dict__)
        for name in ("_parameters", "_buffers", "_modules"):
            setattr(clone, name, dict(getattr(original, name)))
        return clone if device is None else clone.to(device)


class QConv1d(_Clone, QConv1dBase):
    """bitorch's QConv1d on qconv's kernels."""

    @classmethod
    def can_clone(cls, recipe: LayerRecipe) -> tuple[bool, str]:
        weight = recipe.layer.weight
        if weight.dtype not in accepted_types():
            return False, f"the weight is {weight.dtype}; qconv computes in float32 (and in float64 through PyTorch)"
        return True, ""

    def forward(self, input_tensor: Tensor) -> Tensor:
        # bitorch pads with pad_value whatever padding_mode says.
        return convolve_module(self, input_tensor, "zeros")


def _supported(registry: LayerRegistry, others_than: type) -> bool:
    return any(
        implementation.supports_mode(RuntimeMode.CPU) and implementation.class_ is not others_than
        for implementation in registry.layer_implementations
    )


def _keep_as_is(registry: LayerRegistry, base: type) -> type:
    """bitorch's own implementation of another layer, offered for RuntimeMode.CPU: without one, converting a model that
    has such a layer fails. Gives way to any other."""

    class Kept(_Clone, base):  # type: ignore[misc, valid-type]
        @classmethod
        def can_clone(cls, recipe: LayerRecipe) -> tuple[bool, str]:
            if _supported(registry, cls):
                return False, "another implementation serves this mode"
            return True, ""

    Kept.__name__ = Kept.__qualname__ = base.__name__.removesuffix("Base")
    return Kept


def register() -> None:
    """Registers QConv1d for RuntimeMode.CPU, and bitorch's own layers for the types that nothing serves in that mode.
    Once is enough; again is harmless."""
    if any(implementation.class_ is QConv1d for implementation in q_conv1d_registry.layer_implementations):
        return
    LayerImplementation(q_conv1d_registry, RuntimeMode.CPU)(QConv1d)
    for registry, base in (
        (q_linear_registry, QLinearBase),
        (q_conv2d_registry, QConv2dBase),
        (q_conv3d_registry, QConv3dBase),
    ):
        if not _supported(registry, QConv1d):
            LayerImplementation(registry, RuntimeMode.CPU)(_keep_as_is(registry, base))
