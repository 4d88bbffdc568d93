"""What torch.utils.flop_counter counts of the operators: two for each multiply-add, as of torch.nn.Conv1d."""

import logging
from collections.abc import Sequence
from typing import Any

from . import _ops
from ._layer import layer_spec
from ._library import GRAD_INPUT, GRAD_WEIGHT

# Where there is no Triton it logs at once that it cannot count Triton's kernels, which is nothing that an import of this
# package should say.
_log = logging.getLogger("torch.utils.flop_counter")
_disabled, _log.disabled = _log.disabled, True
from torch.utils.flop_counter import register_flop_formula  # noqa: E402

_log.disabled = _disabled


def _flops(layer: str, batch: int, width: int) -> int:
    spec = layer_spec(layer)
    return 2 * batch * spec.width_out(width) * spec.out_channels * (spec.in_channels // spec.groups) * spec.kernel_size


@register_flop_formula([_ops.forward.overloadpacket, _ops.training.overloadpacket])
def _of_forward(x: Sequence[int], weight: Any, bias: Any, layer: str, *_: Any, **__: Any) -> int:
    return _flops(layer, x[0], x[2])


@register_flop_formula(_ops.backward.overloadpacket)
def _of_backward(
    grad_output: Sequence[int],
    x: Any,
    weight: Any,
    state: Any,
    layer: str,
    width: int,
    directions: int,
    *_: Any,
    **__: Any,
) -> int:
    wanted = bool(directions & GRAD_INPUT) + bool(directions & GRAD_WEIGHT)
    return wanted * _flops(layer, grad_output[0], width)
