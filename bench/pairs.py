"""Pairs of quantizers: as bitorch's modules, and in numpy with the derivatives that bitorch's backward takes."""
import re

import numpy as np
from bitorch.quantizations import (ApproxSign, Identity, InputDoReFa, ProgressiveSign, Sign, SteHeaviside, SwishSign,
                                   WeightDoReFa, ste_heaviside)

# bitorch 0.4.1 prints a tensor in every backward of SteHeaviside, which would be most of the time of a small layer.
ste_heaviside.print = lambda *_: None

MODULES = {
    kind.name: kind for kind in (Sign, ApproxSign, SwishSign, SteHeaviside, InputDoReFa, WeightDoReFa, Identity,
                                 ProgressiveSign)
}
BETA = 5.0  # bitorch's default of swishsign


class Quantizer:
    """One of bitorch's quantizers with its defaults, by name and for the two DoReFa bits: inputdorefa2."""

    def __init__(self, name, training=False):
        self.name, bits = re.fullmatch(r"(.*?)(\d*)", name).groups()
        if self.name not in MODULES or ("dorefa" in self.name) != bool(re.fullmatch("[1-8]", bits)):
            allowed = ", ".join(f"{kind}1..8" if "dorefa" in kind else kind for kind in MODULES)
            raise SystemExit(f"quantizer '{name}': allowed: {allowed}")
        self.bits, self.training = int(bits or 0), training

    def module(self):
        return MODULES[self.name](bits=self.bits) if self.bits else MODULES[self.name]()

    def __call__(self, v):
        """The same in numpy, in float32 as bitorch computes it."""
        m = np.float32(2**self.bits - 1)
        if self.name == "identity":
            return v
        if self.name == "progressive_sign" and self.training:
            return np.clip(v, -1, 1)  # at scale 0, where training begins
        if self.name == "inputdorefa":
            return np.round(np.clip(v, 0, 1) * m) / m
        if self.name == "weightdorefa":
            t = np.tanh(v)
            return 2 * np.round((t / (2 * np.abs(t).max()) + 0.5) * m) / m - 1
        return np.where(v > 0 if self.name == "steheaviside" else v >= 0, np.float32(1), np.float32(-1))

    def derivative(self, v):
        """What bitorch's backward multiplies gradients with."""
        v = np.asarray(v, dtype=np.float64)
        if self.name == "approxsign":
            return np.maximum(2 - 2 * np.abs(v), 0)
        if self.name == "steheaviside":
            return (np.abs(v) <= 1).astype(np.float64)
        if self.name == "swishsign":
            return BETA * (2 - BETA * v * np.tanh(BETA * v / 2)) / (1 + np.cosh(BETA * v))
        return np.ones_like(v)


class Pair:
    """What both sides compute: QConv1d with two quantizers, or QConv1d_NoAct ("NoAct/sign"). progressive_sign is
    another function in training."""

    def __init__(self, text, training=False):
        left, _, right = text.partition("/")
        self.name, self.noact = text, left == "NoAct"
        self.input = Quantizer("identity" if self.noact else left, training)
        self.weight = Quantizer(right, training)
