"""Weights in PyTorch's memory, and libqconv's packed layers of them: one cache for calls from here and for native ones.

The contents of weights decide whether a layer is packed anew (runtime/weight_cache.h). PyTorch's count of changes and its
addresses only bring a whole comparison forward, since neither tells of `.data`, NumPy, DLPack or another process.
"""

import os
import weakref
from ctypes import addressof

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from ._layer import LayerSpec
from ._library import CPU, FORWARD, LIBRARY, Acquired, Cpu, check

_acquire = LIBRARY.qconv_weights_acquire
release = LIBRARY.qconv_weights_release

_float32 = torch.float32
_CHECKS = ("sampled", "exact", "frozen")  # qconv_weight_check


class check_weights:  # noqa: N801
    """How evaluation looks for changed weights, from now on and in all threads; as a context manager, until its end.

    "sampled"   the default: a change of a whole tensor, of an output channel, an input channel or a tap is seen by the next
                call, one of a single element within 8 calls (of weights above 1 MiB: one for each 128 KiB)
    "exact"     every change is seen by the next call: all weights are read in every call
    "frozen"    weights are not looked at: a promise that nothing changes them but by ways that PyTorch counts

    Calls with gradients are always exact.
    """

    def __init__(self, how: str) -> None:
        if how not in _CHECKS:
            raise ValueError(f"how is {how!r}; it must be one of {', '.join(map(repr, _CHECKS))}")
        self._before = LIBRARY.qconv_get_weight_check()
        check(LIBRARY.qconv_set_weight_check(_CHECKS.index(how)))

    def __enter__(self) -> "check_weights":
        return self

    def __exit__(self, *_: object) -> None:
        check(LIBRARY.qconv_set_weight_check(self._before))


def _read_environment() -> None:
    how = os.environ.get("QCONV_CHECK_WEIGHTS")
    if how:
        try:
            check_weights(how)
        except ValueError as error:
            raise ImportError(f"QCONV_CHECK_WEIGHTS: {error}") from None


_read_environment()


def _version(tensor: Tensor) -> int:
    """PyTorch's count of changes in place; it keeps none of inference tensors."""
    try:
        return tensor._version
    except RuntimeError:
        return 0


def acquire(
    weight: Tensor,
    bias: Tensor | None,
    spec: LayerSpec,
    directions: int,
    batch: int,
    width: int,
    place: Cpu = CPU,
    backward: bool = False,
) -> int:
    """The layer of these weights as they are now; call release() with it when the call is over. For `backward` the bias
    plays no part."""
    if place is not CPU:
        return _acquire_on(weight, bias, spec, directions, batch, width, place, backward)
    address, version = weight.data_ptr(), _version(weight)
    dense = weight if weight.dtype is _float32 else weight.float()
    if not weight.is_contiguous():
        version += hash(weight.stride())  # another view of the same place is compared as a whole
        dense = dense.contiguous()
    if bias is not None:
        bias = bias.float().contiguous()
    acquired = Acquired()
    status = _acquire(
        spec.config_address(directions), None, address, address if dense is weight else dense.data_ptr(),
        None if bias is None else bias.data_ptr(), version, batch, width, backward, addressof(acquired),
    )  # fmt: skip
    if status:
        check(status)
    if acquired.first:
        watch(weight, address)
    return acquired.layer


# Of weights on GPUs: what was packed, and how often it was found to have changed.
_copies: dict[int, tuple[Tensor, Tensor | None, int]] = {}


def _acquire_on(
    weight: Tensor,
    bias: Tensor | None,
    spec: LayerSpec,
    directions: int,
    batch: int,
    width: int,
    place: Cpu,
    backward: bool,
) -> int:
    """On a GPU everything is compared with a copy, there: one kernel and a wait for its answer."""
    address = weight.data_ptr()
    frozen = directions == FORWARD and _CHECKS[LIBRARY.qconv_get_weight_check()] == "frozen"
    frozen = frozen or (weight.is_cuda and torch.cuda.is_current_stream_capturing())  # no graph may wait
    kept = _copies.get(address)
    if not frozen or kept is None:
        now = kept[1] if kept is not None and backward else bias
        if kept is None or not (_equal(kept[0], weight) and _equal(kept[1], now)):
            changes = 0 if kept is None else kept[2] + 1
            copies = (None if t is None else t.detach().clone() for t in (weight, now))
            kept = _copies[address] = (*copies, changes)
    version = (kept[2] << 32) + _version(weight)
    acquired = Acquired()
    host = host_bias = None
    while True:
        status = _acquire(
            spec.config_address(directions), place.pointer, address, None if host is None else host.data_ptr(),
            None if host_bias is None else host_bias.data_ptr(), version, batch, width, backward, addressof(acquired),
        )  # fmt: skip
        if status:
            check(status)
        if acquired.layer:
            break
        host = weight.detach().float().cpu().contiguous()
        host_bias = None if bias is None else bias.detach().float().cpu().contiguous()
    if acquired.first:
        watch(weight, address)
    return acquired.layer


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else a.shape == b.shape and torch.equal(a, b)


# The storages of weights with layers, by address. Not the tensors: PyTorch refuses to swap those that something refers to.
_storages: dict[int, weakref.ref] = {}


def watch(weight: Tensor, address: int) -> None:
    """Drops the layers of an address when its memory goes."""

    def gone(_: object) -> None:
        _drop(address)

    _storages[address] = weakref.ref(weight.untyped_storage(), gone)


def _drop(address: int) -> None:
    _storages.pop(address, None)
    _copies.pop(address, None)
    LIBRARY.qconv_weights_forget(address)


def forget(weight: Tensor) -> None:
    """Drops what is packed of a weight."""
    _drop(weight.data_ptr())


def count_weights() -> int:
    """Weights with packed layers."""
    return LIBRARY.qconv_weights_count()


def _count_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Fused optimizers change parameters without counting it."""
    if not torch.compiler.is_compiling():
        changed = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.autograd.graph.increment_version(changed)


register_optimizer_step_post_hook(_count_step)
