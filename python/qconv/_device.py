"""Layers on CUDA GPUs, for tensors that are there: the calls of the C ABI that end in _on, on PyTorch's current stream.

A GPU is opened when the first of its tensors arrives. It is the context that PyTorch uses, and scratch comes from
PyTorch's caching allocator, so that streams keep the order and `torch.cuda.memory_allocated` knows of it.
"""

import threading
from ctypes import CFUNCTYPE, byref, c_size_t, c_void_p

import torch
from torch import Tensor

from ._library import CPU, LIBRARY, Cpu, check

_OUT_OF_MEMORY = 4


def place(tensor: Tensor) -> int:
    """The GPU that a tensor is on; -1 for the CPU."""
    return tensor.get_device()


def _check(status: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise torch.OutOfMemoryError(LIBRARY.qconv_last_error().decode())
    check(status)


@CFUNCTYPE(c_void_p, c_size_t, c_void_p, c_void_p)
def _allocate(size: int, stream: int | None, gpu: int | None) -> int | None:
    try:
        return torch.cuda.caching_allocator_alloc(size, gpu or 0, stream or 0)
    except Exception:  # none may pass through C: no memory is what the caller hears of
        return None


@CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)
def _release(memory: int, stream: int | None, gpu: int | None) -> None:
    # Whoever gets it next on this stream runs after the kernels that use it now.
    torch.cuda.caching_allocator_delete(memory)


class Device(Cpu):
    """Calls of layers on a GPU, by PyTorch's number. They return when the work is on the stream; weights are waited for
    before they change."""

    def __init__(self, gpu: int) -> None:
        register = getattr(LIBRARY, "qconv_register_gpu_kernels", None)
        if register is None:
            raise RuntimeError(
                "tensors are on a GPU, and this libqconv was built without CUDA kernels (QCONV_GPU_TARGETS)"
            )
        _check(register())
        self.gpu = gpu
        pointer = c_void_p()
        _check(LIBRARY.qconv_device_open_cuda(gpu, None, byref(pointer)))
        self.pointer = pointer.value
        _check(LIBRARY.qconv_device_set_allocator(self.pointer, _allocate, _release, gpu))

    def stream(self) -> int:
        return torch.cuda.current_stream(self.gpu).cuda_stream


    def forward(self, layer: int, x: int, batch: int, width: int, y: int) -> None:
        _check(LIBRARY.qconv_layer_forward_on(layer, x, batch, width, y, self.stream()))

    def forward_training(
        self, layer: int, x: int, batch: int, width: int, y: int, state: int | None, state_bytes: int
    ) -> None:
        _check(
            LIBRARY.qconv_layer_forward_training_on(layer, x, batch, width, y, state, state_bytes, self.stream())
        )

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
        _check(
            LIBRARY.qconv_layer_backward_on(
                layer, x, state, state_bytes, grad_output, batch, width, *gradients, self.stream()
            )
        )


_devices: dict[int, Device] = {}  # never closed: layers may outlive any other owner
_lock = threading.Lock()


def device(gpu: int) -> Device:
    found = _devices.get(gpu)
    if found is None:
        with _lock:
            found = _devices.get(gpu)
            if found is None:
                found = _devices[gpu] = Device(gpu)
    return found


def of(tensor: Tensor) -> Cpu:
    """Where calls with this tensor go."""
    gpu = place(tensor)
    return CPU if gpu < 0 else device(gpu)
