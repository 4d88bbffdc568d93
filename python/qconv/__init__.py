"""Quantized 1-D convolutions for PyTorch, on qconv's ahead-of-time compiled kernels."""

from . import _flops  # noqa: F401  registers itself
from ._cache import check_weights
from ._library import version as _version
from ._kernels import accept_half
from .modules import QActivation, QConv1d, QConv1d_NoAct, conv1d, repack
from .quantizers import (
    ApproxSign,
    Identity,
    InputDoReFa,
    ProgressiveSign,
    Quantizer,
    Scheduled,
    Sign,
    SteHeaviside,
    SwishSign,
    WeightDoReFa,
)

__version__ = _version()
__all__ = [
    "ApproxSign",
    "Identity",
    "InputDoReFa",
    "ProgressiveSign",
    "QActivation",
    "QConv1d",
    "QConv1d_NoAct",
    "Quantizer",
    "Scheduled",
    "Sign",
    "SteHeaviside",
    "SwishSign",
    "WeightDoReFa",
    "accept_half",
    "check_weights",
    "conv1d",
    "repack",
]
