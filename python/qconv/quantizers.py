"""Quantizers by bitorch's names. An instance tells a layer what to compute; called by itself it quantizes in PyTorch,
with bitorch's gradient."""

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ._composite import Quantize
from ._layer import State


class Quantizer(nn.Module):
    """One of the quantizers that qconv's kernels know."""

    name = ""
    bit_width = 1

    def state(self) -> State | None:
        """What to compute now: a name and its parameters (qconv/_layer.py); None if only PyTorch can."""
        return (self.name,)

    def forward(self, x: Tensor) -> Tensor:
        return Quantize.apply(x, self.state())


class Identity(Quantizer):
    """v"""

    name = "identity"
    bit_width = 32


class Sign(Quantizer):
    """+1 if v >= 0 else -1; gradient 1."""

    name = "sign"


class ApproxSign(Quantizer):
    """Forward as sign; gradient 2 - 2|v| if |v| <= 1 else 0."""

    name = "approxsign"


class SteHeaviside(Quantizer):
    """+1 if v > 0 else -1; gradient 1 if |v| <= 1 else 0."""

    name = "steheaviside"


class SwishSign(Quantizer):
    """Forward as sign; gradient beta (2 - beta v tanh(beta v / 2)) / (1 + cosh(beta v))."""

    name = "swishsign"

    def __init__(self, beta: float | None = None) -> None:
        super().__init__()
        self.beta = 5.0 if beta is None else float(beta)

    def state(self) -> State:
        return ("swishsign", self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class _DoReFa(Quantizer):
    def __init__(self, bits: int | None = None) -> None:
        super().__init__()
        self.bit_width = 1 if bits is None else bits
        if not (isinstance(self.bit_width, int) and 1 <= self.bit_width <= 8):
            raise ValueError(f"bits is {bits!r}; it must be 1 to 8")

    def state(self) -> State:
        return (self.name, self.bit_width)

    def extra_repr(self) -> str:
        return f"bits={self.bit_width}"


class InputDoReFa(_DoReFa):
    """round(clamp(v, 0, 1) m) / m, m = 2^bits - 1; gradient 1."""

    name = "inputdorefa"


class WeightDoReFa(_DoReFa):
    """2 round((tanh(v) / (2 max|tanh(V)|) + 0.5) m) / m - 1, the maximum over the whole tensor; gradient 1."""

    name = "weightdorefa"


class ProgressiveSign(Quantizer):
    """Training: hardtanh(v / max(1 - T, 1e-7)), T = 1 - alpha^(-beta scale); evaluation: sign. Gradient 1.

    The scale goes from 0 at the start of training to 1 at its end: set `ProgressiveSign.global_scale` for all of them,
    or, with use_global_scaling=False, `scale` of one. custom_transform gives T of the scale in place of the formula.
    """

    name = "progressive_sign"
    global_scale = 0.0

    def __init__(
        self,
        use_global_scaling: bool = True,
        initial_scale: float | None = None,
        custom_transform: Callable[[float], float] | None = None,
        alpha: float | None = None,
        beta: float | None = None,
    ) -> None:
        super().__init__()
        if use_global_scaling and initial_scale is not None:
            raise ValueError(f"initial_scale is {initial_scale}, which needs use_global_scaling=False")
        self.global_scaling = use_global_scaling
        self.scale = 0.0 if initial_scale is None else initial_scale
        self.custom_transform = custom_transform
        self.alpha = 4.0 if alpha is None else alpha
        self.beta = 10.0 if beta is None else beta

    @property
    def current_scale(self) -> float:
        return ProgressiveSign.global_scale if self.global_scaling else self.scale

    def transform(self, scale: float) -> float:
        return 1 - self.alpha ** (-self.beta * scale) if self.custom_transform is None else self.custom_transform(scale)

    def state(self) -> State:
        return _progressive(self)

    def extra_repr(self) -> str:
        scale = "global" if self.global_scaling else self.scale
        return f"scale={scale}, alpha={self.alpha}, beta={self.beta}"


class Scheduled(Quantizer):
    """Moves through several quantizers as `factor` goes from 0 at the start of training to 1 at its end: mixing
    neighbours linearly, or stepping from each to the next."""

    name = "scheduled"
    bit_width = 32

    def __init__(self, quantizations: Sequence[nn.Module], procedure: str = "mix_linear", factor: float = 0.0) -> None:
        super().__init__()
        if procedure not in ("mix_linear", "step"):
            raise ValueError(f"procedure is {procedure!r}; it must be 'mix_linear' or 'step'")
        if not quantizations:
            raise ValueError("quantizations is empty; it must name one or more quantizers")
        self.quantizations = nn.ModuleList(quantizer(choice) for choice in quantizations)
        self.procedure, self.factor = procedure, factor

    def state(self) -> State | None:
        return _mixed(self) if self.procedure == "mix_linear" else _stepped(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.state() is not None:
            return super().forward(x)
        if self.procedure == "step":
            return self.quantizations[_step(self)](x)
        lower, mix = _position(self)
        first = self.quantizations[lower](x)
        return (1.0 - mix) * first + mix * self.quantizations[lower + 1](x) if mix else first

    def extra_repr(self) -> str:
        return f"procedure={self.procedure!r}, factor={self.factor}"


def _position(q: Any) -> tuple[int, float]:
    """The stage that a linear schedule has reached, and its share of the next one."""
    position = q.factor * (len(q.quantizations) - 1)
    lower = _whole(position, len(q.quantizations) - 1)
    return lower, position - lower


def _whole(position: float, most: int) -> int:
    """min(int(position), most), in comparisons: torch.compile follows them where position is a number that varies."""
    whole = 0
    while whole < most and position >= whole + 1:
        whole += 1
    return whole


def _step(q: Any) -> int:
    return _whole(q.factor * len(q.quantizations), len(q.quantizations) - 1)


def _mixed(q: Any) -> State | None:
    lower, mix = _position(q)
    first = quantizer_state(q.quantizations[lower])
    if mix == 0 or first is None:
        return first
    next_ = quantizer_state(q.quantizations[lower + 1])
    if next_ is None or "scheduled" in (first[0], next_[0]):
        return None
    return ("scheduled", first, next_, mix)


def _stepped(q: Any) -> State | None:
    return quantizer_state(q.quantizations[_step(q)])


QUANTIZERS: dict[str, type[Quantizer]] = {
    kind.name: kind
    for kind in (
        Identity,
        Sign,
        ApproxSign,
        SwishSign,
        SteHeaviside,
        InputDoReFa,
        WeightDoReFa,
        ProgressiveSign,
    )
}


def quantizer(choice: str | Callable[[Tensor], Tensor] | None) -> nn.Module:
    """A quantizer module from a name, an instance, any PyTorch module or function, or None: sign, the default."""
    if choice is None:
        return Sign()
    if isinstance(choice, str):
        if choice in QUANTIZERS:
            return QUANTIZERS[choice]()
        near = difflib.get_close_matches(choice, QUANTIZERS, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"quantizer {choice!r} is unknown{hint}; known: {', '.join(QUANTIZERS)}")
    if isinstance(choice, nn.Module):
        return choice
    if callable(choice) and not isinstance(choice, type):
        return Function(choice)
    raise ValueError(f"a quantizer is a name, an instance or a function, not {choice!r}")


class Function(nn.Module):
    """A plain function in a quantizer's place; runs in PyTorch."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# bitorch's own instances, recognised without importing bitorch. They are read anew in every call: schedules move on.


def _dorefa(q: Any) -> State | None:
    return (q.name, q.bit_width) if 1 <= q.bit_width <= 8 else None


def _progressive(q: Any) -> State:
    if not q.training:
        return ("progressive_sign",)
    if q.custom_transform is None:
        return ("progressive_sign", float(q.alpha), float(q.beta), float(q.current_scale))
    # 1 - T is all that matters: 2^-scale.
    rest = 1.0 - q.transform(q.current_scale)
    return ("progressive_sign", 2.0, 1.0, min(-math.log2(rest), 64.0) if rest > 0 else 64.0)


_BITORCH: dict[tuple[str, str], Callable[[Any], State | None]] = {
    ("identity", "Identity"): lambda q: ("identity",),
    ("sign", "Sign"): lambda q: ("sign",),
    ("approx_sign", "ApproxSign"): lambda q: ("approxsign",),
    ("ste_heaviside", "SteHeaviside"): lambda q: ("steheaviside",),
    ("swish_sign", "SwishSign"): lambda q: ("swishsign", float(q.beta)),
    ("dorefa", "InputDoReFa"): _dorefa,
    ("dorefa", "WeightDoReFa"): _dorefa,
    ("progressive_sign", "ProgressiveSign"): _progressive,
    ("quantization_scheduler", "ScheduledQuantizer"): lambda q: ("identity",),
    ("quantization_scheduler", "MixLinearScheduling"): _mixed,
    ("quantization_scheduler", "StepScheduling"): _stepped,
}
_BITORCH_PREFIX = "bitorch.quantizations."

_readers: dict[type, Callable[[Any], State | None]] = {}


def _reader(kind: type) -> Callable[[Any], State | None]:
    if issubclass(kind, Quantizer):
        return kind.state
    if kind.__module__.startswith(_BITORCH_PREFIX):
        known = _BITORCH.get((kind.__module__[len(_BITORCH_PREFIX) :], kind.__name__))
        if known is not None:
            return known
    return lambda q: None


def quantizer_state(q: nn.Module) -> State | None:
    """What a quantizer computes now, or None if only it knows: then it runs in PyTorch."""
    reader = _readers.get(type(q))
    if reader is None:
        reader = _readers[type(q)] = _reader(type(q))
    return reader(q)
