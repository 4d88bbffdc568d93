"""libqconv through its C ABI (runtime/include/qconv/qconv.h)."""

import ctypes
import os
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch

QUANTIZER_KINDS = (
    "identity",
    "sign",
    "approxsign",
    "swishsign",
    "steheaviside",
    "inputdorefa",
    "weightdorefa",
    "progressive_sign",
)
LAYER_KINDS = ("conv1d", "QConv1d_NoAct", "QConv1d")

# qconv_direction
FORWARD, GRAD_INPUT, GRAD_WEIGHT = 1, 2, 4
# qconv_saved
SAVES_NOTHING, SAVES_STATE, SAVES_INPUT = 0, 1, 2


class Quantizer(Structure):
    _fields_ = [
        ("kind", c_int),
        ("bits", c_int32),
        ("alpha", c_float),
        ("beta", c_float),
        ("scale", c_float),
        ("training", c_int32),
    ]


class LayerConfig(Structure):
    _fields_ = [
        ("kind", c_int),
        ("in_channels", c_int64),
        ("out_channels", c_int64),
        ("kernel_size", c_int64),
        ("stride", c_int64),
        ("pad_left", c_int64),
        ("pad_right", c_int64),
        ("dilation", c_int64),
        ("groups", c_int64),
        ("pad_value", c_float),
        ("input_quantization", Quantizer),
        ("input_next", Quantizer),
        ("input_mix", c_float),
        ("weight_quantization", Quantizer),
        ("weight_next", Quantizer),
        ("weight_mix", c_float),
        ("gradient_cancellation_threshold", c_float),
        ("directions", c_uint32),
        ("kernel", c_char_p),
        ("grad_input_kernel", c_char_p),
        ("grad_weight_kernel", c_char_p),
        ("width", c_int64),
    ]


class Acquired(Structure):
    _fields_ = [("layer", c_void_p), ("first", c_int)]


class Kernel(Structure):
    """The first fields of qconv_kernel; the rest is of no use here."""

    _fields_ = [("name", c_char_p), ("target", c_char_p)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "qconv_last_error": (c_char_p, []),
    "qconv_version": (c_char_p, []),
    "qconv_quantizer_default": (Quantizer, [c_int]),
    "qconv_layer_config_init": (None, [POINTER(LayerConfig), c_int]),
    "qconv_layer_create": (c_int, [POINTER(LayerConfig), c_void_p, c_void_p, POINTER(c_void_p)]),
    "qconv_layer_destroy": (None, [c_void_p]),
    "qconv_layer_forward": (c_int, [c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_size_t]),
    "qconv_layer_saved": (c_int, [c_void_p]),
    "qconv_layer_state_planes": (c_int, [c_void_p]),
    "qconv_layer_forward_training": (
        c_int,
        [c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t],
    ),
    "qconv_layer_backward": (
        c_int,
        [c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_int64, c_int64]
        + [c_void_p, c_void_p, c_void_p, c_void_p, c_size_t],
    ),
    "qconv_layer_kernel": (POINTER(Kernel), [c_void_p, c_int]),
    "qconv_layer_packed_bytes": (c_size_t, [c_void_p]),
    "qconv_set_weight_check": (c_int, [c_int]),
    "qconv_get_weight_check": (c_int, []),
    "qconv_weights_acquire": (
        c_int,
        # Of the structures the addresses, which ctypes takes faster.
        [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_uint64, c_int64, c_int64, c_int, c_void_p],
    ),
    "qconv_weights_release": (None, [c_void_p]),
    "qconv_weights_forget": (None, [c_void_p]),
    "qconv_weights_count": (c_size_t, []),
    "qconv_register_generic_kernels": (c_int, []),
    "qconv_device_open_cuda": (c_int, [c_int, c_void_p, POINTER(c_void_p)]),
    "qconv_device_set_allocator": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "qconv_layer_forward_on": (c_int, [c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
    "qconv_layer_forward_training_on": (
        c_int,
        [c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_size_t, c_void_p],
    ),
    "qconv_layer_backward_on": (
        c_int,
        [c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_int64, c_int64] + [c_void_p] * 4,
    ),
    "qconv_set_num_threads": (c_int, [c_int]),
    "qconv_get_num_threads": (c_int, []),
}

# qconv_status to what Python calls it; the others are RuntimeError.
_EXCEPTIONS: dict[int, type[Exception]] = {1: ValueError, 4: MemoryError}


PATH = Path(os.environ.get("QCONV_LIBRARY") or Path(__file__).parent / "lib" / "qconv" / "libqconv.so")


def _load() -> ctypes.CDLL:
    try:
        # dlopen's own message is about one file; this one says what to do.
        library = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise ImportError(
            f"cannot load libqconv: {error}. `pip install .` in the repository builds it; "
            "QCONV_LIBRARY names another one"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


LIBRARY = _load()


def check(status: int) -> None:
    if status:
        raise _EXCEPTIONS.get(status, RuntimeError)(LIBRARY.qconv_last_error().decode())


check(LIBRARY.qconv_register_generic_kernels())


def follow_torch_threads() -> None:
    """Kernels use as many threads as PyTorch does. libqconv is asked each time, since others set its number too
    (_native.cpp)."""
    threads = min(torch.get_num_threads(), 1024)
    if threads != LIBRARY.qconv_get_num_threads():
        check(LIBRARY.qconv_set_num_threads(threads))


def version() -> str:
    return LIBRARY.qconv_version().decode()


_forward = LIBRARY.qconv_layer_forward
_forward_training = LIBRARY.qconv_layer_forward_training
_backward = LIBRARY.qconv_layer_backward


class Cpu:
    """Calls of layers on the CPU. Layers, tensors and states by their addresses: dense, 0 or None for none."""

    pointer: int | None = None  # the qconv_device
    gpu = -1

    def forward(self, layer: int, x: int, batch: int, width: int, y: int) -> None:
        follow_torch_threads()
        if status := _forward(layer, x, batch, width, y, None, 0):
            check(status)

    def forward_training(
        self, layer: int, x: int, batch: int, width: int, y: int, state: int | None, state_bytes: int
    ) -> None:
        follow_torch_threads()
        if status := _forward_training(layer, x, batch, width, y, state, state_bytes, None, 0):
            check(status)

    def backward(
        self,
        layer: int,
        x: int | None,
        state: int | None,
        state_bytes: int,
        grad_output: int,
        batch: int,
        width: int,
        *gradients: int | None,
    ) -> None:
        """gradients: of the input, the weight and the bias; None for those not wanted."""
        follow_torch_threads()
        if status := _backward(layer, x, state, state_bytes, grad_output, batch, width, *gradients, None, 0):
            check(status)


CPU = Cpu()


def saved(config: LayerConfig) -> tuple[int, int]:
    """What a layer of this configuration saves for backward (SAVES_...), and the planes of its state: whatever its shape,
    so that one of a single weight answers."""
    probe = LayerConfig.from_buffer_copy(config)
    for key in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"):
        setattr(probe, key, 1)
    probe.pad_left = probe.pad_right = 0
    layer = c_void_p()
    check(LIBRARY.qconv_layer_create(byref(probe), (c_float * 1)(1.0), None, byref(layer)))
    try:
        return LIBRARY.qconv_layer_saved(layer), LIBRARY.qconv_layer_state_planes(layer)
    finally:
        LIBRARY.qconv_layer_destroy(layer)
