"""The layers, with the arguments and attributes of torch.nn.Conv1d and bitorch's names."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional, init
from torch.overrides import handle_torch_function, has_torch_function

from . import _cache
from ._composite import CancelGradient
from ._layer import State, layer_call
from ._ops import convolve
from .quantizers import quantizer, quantizer_state

Quantization = str | nn.Module | Callable[[Tensor], Tensor] | None
Padding = int | str | Sequence[int]

_IDENTITY: State = ("identity",)


def _single(name: str, value: Any, least: int = 1) -> int:
    """PyTorch takes a number, or a sequence of one."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        (value,) = value
    if hasattr(value, "__index__") and not isinstance(value, (bool, int)):
        value = value.__index__()  # NumPy's integers
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be an integer >= {least}")
    return value


def _resolve_padding(padding: Padding, kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """To numbers: left, right."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        if stride != 1:
            raise ValueError(f"padding 'same' needs stride 1; stride is {stride}")
        total = dilation * (kernel_size - 1)
        return total // 2, total - total // 2
    if isinstance(padding, Sequence) and not isinstance(padding, str) and len(padding) == 2:
        left, right = (_single("padding", side, 0) for side in padding)
    elif isinstance(padding, str):
        raise ValueError(f"padding is {padding!r}; it must be an integer, [left, right], 'same' or 'valid'")
    else:
        left = right = _single("padding", padding, 0)
    return left, right


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv1d on qconv's kernels; `padding` may also be [left, right]."""
    if has_torch_function((input, weight, bias)):  # torch.fx records the call
        return handle_torch_function(
            conv1d, (input, weight, bias), input, weight, bias, stride, padding, dilation, groups
        )
    if weight.dim() != 3:
        raise ValueError(
            f"weight has {weight.dim()} dimensions; it must be [out_channels, in_channels / groups, kernel_size]"
        )
    out_channels, channels_in_group, kernel_size = weight.shape
    stride, dilation = _single("stride", stride), _single("dilation", dilation)
    left, right = _resolve_padding(padding, kernel_size, stride, dilation)
    text, _ = layer_call(
        "conv1d", channels_in_group * groups, out_channels, kernel_size, stride, left, right, dilation, groups,
        0.0, _IDENTITY, _IDENTITY, None,
    )  # fmt: skip
    return convolve(input, weight, bias, text)


class QActivation(nn.Module):
    """Quantizes, and lets no gradient through where the input exceeds a threshold (None or 0: everywhere)."""

    def __init__(self, activation: Quantization = None, gradient_cancellation_threshold: float | None = None) -> None:
        super().__init__()
        limit = gradient_cancellation_threshold
        if limit is not None and not limit >= 0:
            raise ValueError(f"gradient_cancellation_threshold is {limit}; it must be positive, or None for none")
        self.activation_function = quantizer(activation)
        self.gradient_cancellation_threshold = limit

    def cancel(self, x: Tensor) -> Tensor:
        limit = threshold(self.gradient_cancellation_threshold)
        return x if limit is None else CancelGradient.apply(x, limit)

    def forward(self, input: Tensor) -> Tensor:
        return self.activation_function(self.cancel(input))

    def extra_repr(self) -> str:
        return f"gradient_cancellation_threshold={self.gradient_cancellation_threshold}"


def threshold(value: float | None) -> float | None:
    """The threshold in force: 0 switches it off as None does."""
    return float(value) if value is not None and value > 0 else None


def convolve_module(module: Any, x: Tensor, padding_mode: str) -> Tensor:
    """What a module with QConv1d_NoAct's attributes computes, or with an activation QConv1d's. Quantizers that only
    PyTorch knows run there, and the rest here."""
    if isinstance(x, Proxy):  # torch.fx: the layer is one node, as those of torch.nn are
        return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})
    # These dictionaries, since the attributes of modules are found by way of __getattr__, a microsecond each.
    modules, weight = module._modules, module._parameters.get("weight")
    if weight is None:
        weight = module.weight  # parametrized
    layer, state, limit = "QConv1d_NoAct", _IDENTITY, None
    if activation := modules.get("activation"):
        known = quantizer_state(activation._modules["activation_function"])
        if known is None:
            x = activation(x)
        else:
            layer, state, limit = "QConv1d", known, threshold(activation.gradient_cancellation_threshold)
    left, right = module._reversed_padding_repeated_twice
    if padding_mode != "zeros":
        # These pad with values of x, so that it makes no difference whether they come before quantization.
        x, left, right = functional.pad(x, (left, right), mode=padding_mode), 0, 0
    weight_state = quantizer_state(modules["_weight_quantize"])
    if weight_state is None:
        weight, weight_state = module._weight_quantize(weight), _IDENTITY
    text, values = layer_call(
        layer, module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0], left, right,
        module.dilation[0], module.groups, module._pad_value, state, weight_state, limit,
    )  # fmt: skip
    return convolve(x, weight, None, text, values)


class QConv1d_NoAct(nn.Conv1d):  # noqa: N801
    """Quantizes the weight, then convolves; padding is pad_value. None is the default: sign, and -1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: Padding = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        weight_quantization: Quantization = None,
        pad_value: float | None = None,
    ) -> None:
        if bias:
            raise ValueError(
                "bias is True; a quantized layer has none, since compiled kernels keep sums of integers: use False, "
                "and add a bias after the layer (BatchNorm1d has one)"
            )
        in_channels, out_channels = _single("in_channels", in_channels), _single("out_channels", out_channels)
        kernel_size, stride = _single("kernel_size", kernel_size), _single("stride", stride)
        dilation, groups = _single("dilation", dilation), _single("groups", groups)
        sides = _resolve_padding(padding, kernel_size, stride, dilation)
        one_number = not isinstance(padding, Sequence) or isinstance(padding, str) or len(padding) == 1
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding if one_number else 0, dilation, groups, False,
            padding_mode, device, dtype,
        )  # fmt: skip
        if not one_number:
            self.padding = sides
        self._reversed_padding_repeated_twice = list(sides)
        self._weight_quantize = quantizer(weight_quantization)
        self._pad_value = -1.0 if pad_value is None else float(pad_value)

    def reset_parameters(self) -> None:
        init.xavier_normal_(self.weight)

    def _apply_padding(self, x: Tensor) -> Tensor:
        mode, value = ("constant", self._pad_value) if self.padding_mode == "zeros" else (self.padding_mode, None)
        return functional.pad(x, self._reversed_padding_repeated_twice, mode, value)

    def forward(self, input: Tensor) -> Tensor:
        return convolve_module(self, input, self.padding_mode)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pad_value={self._pad_value:g}"


class QConv1d(QConv1d_NoAct):
    """Quantizes input and weight, then convolves; padding comes after quantization. None is the default: sign.

    gradient_cancellation_threshold: the gradient of the input is 0 where |input| exceeds it; disabled if None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: Padding = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        input_quantization: Quantization = None,
        weight_quantization: Quantization = None,
        pad_value: float | None = None,
        gradient_cancellation_threshold: float | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            weight_quantization=weight_quantization, pad_value=pad_value,
        )  # fmt: skip
        self.activation = QActivation(input_quantization, gradient_cancellation_threshold)


def repack(target: nn.Module | Tensor) -> None:
    """Packs the weights anew on their next use. Only needed where check_weights is "frozen", or for one element that the
    very next call must see."""
    for weight in [target] if isinstance(target, Tensor) else target.parameters():
        _cache.forget(weight)
