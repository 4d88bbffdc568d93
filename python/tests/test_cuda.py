"""CUDA tensors. Most machines have no GPU, so the way there is tested in two halves: the operators over a stand-in for the
calls on a device, which computes on the CPU and so shows whether arguments are right; and the same operators down to
launches of the real library on a driver that runs nothing (tests/cuda). With a GPU, the results themselves too."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import qconv
from qconv import _cache, _device, _library, _ops

LAYERS = {
    "sign": lambda: qconv.QConv1d(12, 20, 3, stride=2, padding=2, gradient_cancellation_threshold=1.0),
    "swishsign": lambda: qconv.QConv1d(8, 8, 3, groups=2, input_quantization="swishsign"),
    "dorefa": lambda: qconv.QConv1d(
        8, 4, 5, padding="same", input_quantization=qconv.InputDoReFa(2), weight_quantization=qconv.WeightDoReFa(4)
    ),
    "no_act": lambda: qconv.QConv1d_NoAct(6, 7, 3, dilation=2),
}
STREAM = 0x77


class StandIn:
    """The library's calls on a device, on the CPU, noted."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.qconv_last_error = _library.LIBRARY.qconv_last_error

    def qconv_register_gpu_kernels(self) -> int:
        return 0

    def qconv_device_open_cuda(self, gpu, context, pointer) -> int:
        pointer._obj.value = 0xD0 + gpu
        return 0

    def qconv_device_set_allocator(self, device, allocate, release, context) -> int:
        self.calls.append(("allocator", context))
        return 0

    def qconv_weights_acquire(self, config, device, address, weight, *rest) -> int:
        if device is not None and weight is not None:
            self.calls.append(("pack", device))
        return _library.LIBRARY.qconv_weights_acquire(config, None, address, weight, *rest)

    def qconv_layer_forward_on(self, layer, x, batch, width, y, stream) -> int:
        self.calls.append(("forward", stream))
        return _library._forward(layer, x, batch, width, y, None, 0)

    def qconv_layer_forward_training_on(self, layer, x, batch, width, y, state, state_bytes, stream) -> int:
        self.calls.append(("training", stream))
        return _library._forward_training(layer, x, batch, width, y, state, state_bytes, None, 0)

    def qconv_layer_backward_on(self, layer, x, state, state_bytes, gy, batch, width, gx, gw, gb, stream) -> int:
        assert batch > 0  # which a device refuses
        self.calls.append(("backward", stream))
        return _library._backward(layer, x, state, state_bytes, gy, batch, width, gx, gw, gb, None, 0)


@pytest.fixture
def gpu(monkeypatch):
    """While it lasts, all tensors pass for tensors of GPU 1."""
    stand_in = StandIn()
    monkeypatch.setattr(_ops, "_convolve_natively", None)  # which is not deceived
    monkeypatch.setattr(_device, "LIBRARY", stand_in)
    monkeypatch.setattr(_cache, "_acquire", stand_in.qconv_weights_acquire)
    monkeypatch.setattr(_device, "_devices", {})
    monkeypatch.setattr(_device, "place", lambda tensor: 1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda gpu: SimpleNamespace(cuda_stream=STREAM * gpu))
    return stand_in


def step(call, x, *parameters):
    """y and the gradients of x and the parameters."""
    x = x.detach().requires_grad_()
    y = call(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *parameters], torch.linspace(-1, 1, y.numel()).view_as(y))]


@pytest.mark.parametrize("name", LAYERS)
def test_modules_reach_the_device(name, gpu, monkeypatch):
    layer, twin = LAYERS[name](), LAYERS[name]()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(3, 50, layer.in_channels).transpose(1, 2)  # not contiguous
    got = step(layer, x, layer.weight)
    with torch.no_grad():
        got.append(layer.eval()(x))
    assert gpu.calls == [
        ("allocator", 1), ("pack", 0xD1), ("training", STREAM), ("backward", STREAM), ("pack", 0xD1),
        ("forward", STREAM),
    ]  # fmt: skip
    monkeypatch.setattr(_device, "place", lambda tensor: -1)
    want = step(twin, x, twin.weight)
    with torch.no_grad():
        want.append(twin.eval()(x))
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_conv1d_with_bias_is_complete(gpu, monkeypatch):
    x, weight, bias = torch.randn(4, 6, 33), torch.randn(8, 3, 3, requires_grad=True), torch.randn(8, requires_grad=True)

    def call(x):
        return qconv.conv1d(x, weight, bias, 2, [1, 0], groups=2)

    got = step(call, x, weight, bias)
    assert [kind for kind, _ in gpu.calls] == ["allocator", "pack", "training", "backward"]
    monkeypatch.setattr(_device, "place", lambda tensor: -1)
    for a, b in zip(got, step(call, x, weight, bias), strict=True):
        assert torch.equal(a, b)


def test_empty_batch(gpu):
    layer = LAYERS["sign"]()
    y, grad_input, grad_weight = step(layer, torch.empty(0, 12, 50), layer.weight)
    assert y.shape[0] == grad_input.shape[0] == 0
    assert torch.count_nonzero(grad_weight) == 0


def test_new_weights_and_a_move_to_the_gpu_pack_anew(gpu, monkeypatch):
    layer = LAYERS["no_act"]().eval().requires_grad_(False)
    x = torch.randn(1, 6, 20)
    first = layer(x)
    layer.weight.mul_(-1)
    assert torch.equal(layer(x), -first)
    assert [kind for kind, _ in gpu.calls].count("pack") == 2
    layer.weight.data.neg_()  # which PyTorch does not count
    assert torch.equal(layer(x), first)
    assert [kind for kind, _ in gpu.calls].count("pack") == 3
    with qconv.check_weights("frozen"):
        layer.weight.data.neg_()
        assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), -first)
    monkeypatch.setattr(_device, "place", lambda tensor: -1)
    assert torch.equal(layer(x), -first)
    assert len(gpu.calls) == 10  # the last call was the CPU's


def test_another_device_is_named():
    with FakeTensorMode():
        layer = qconv.QConv1d(4, 4, 3)
        with pytest.raises(ValueError, match="input is on cuda:0 and weight on cpu; they must be on one device"):
            layer(torch.empty(1, 4, 10, device="cuda"))


def test_shapes_and_devices_of_results():
    with FakeTensorMode():
        x = torch.empty(2, 12, 50, device="cuda", requires_grad=True)
        layer = qconv.QConv1d(12, 20, 3, device="cuda")
        y = layer(x)
        assert y.shape == (2, 20, 48)
        # The engine would want the GPU itself.
        node = y.grad_fn
        text, (_, weight, state, _) = node.call[0], node.saved_tensors
        grads = _ops.backward(torch.ones_like(y), None, weight, state, text, 50, 7, False)
        assert [grad.shape for grad in grads] == [x.shape, layer.weight.shape, (0,)]
        assert {tensor.device.type for tensor in (y, state, *grads)} == {"cuda"}
        with pytest.raises(TypeError, match=r"torch.autocast\('cuda'\)"):
            layer(x.detach().half())


def test_operators_are_there_for_cuda():
    for name in ("forward", "training", "backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"qconv::{name}", "CUDA")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_driver_the_reason_is_given():
    with pytest.raises(RuntimeError, match="CUDA cannot be used: "):
        _device.device(0)
    # And nothing else changes.
    assert qconv.QConv1d(4, 4, 3)(torch.randn(1, 4, 10)).shape == (1, 4, 8)


ON_FAKE_DRIVER = """
import ctypes, torch, qconv
from types import SimpleNamespace
from qconv import _device
driver = ctypes.CDLL("libcuda.so.1")
driver.fake_cuda_stream.restype = ctypes.c_void_p
pool, freed = {}, []
def allocate(size, gpu, stream):
    assert (gpu, stream) == (0, 0x1230)
    block = ctypes.create_string_buffer(size + 256)
    pool[ctypes.addressof(block)] = block
    return ctypes.addressof(block)
torch.cuda.caching_allocator_alloc, torch.cuda.caching_allocator_delete = allocate, freed.append
torch.cuda.current_stream = lambda gpu: SimpleNamespace(cuda_stream=0x1230)
_device.place = lambda tensor: 0
weight, bias = torch.randn(64, 64, 3, requires_grad=True), torch.randn(64, requires_grad=True)
layer = qconv.QConv1d(64, 64, 3, padding="same", gradient_cancellation_threshold=1.0)
x = torch.randn(2, 64, 100, requires_grad=True)
launches = 0
for call in (layer, lambda x: qconv.conv1d(x, weight, bias)):
    for work in (lambda: call(x), lambda: call(x).sum().backward()):
        work()
        assert driver.fake_cuda_launches() > launches
        assert driver.fake_cuda_stream() == 0x1230
        launches = driver.fake_cuda_launches()
assert x.grad is not None and bias.grad is not None and layer.weight.grad is not None
assert driver.fake_cuda_copies_to_host() == 0
assert pool and sorted(freed) == sorted(pool), (len(pool), len(freed))
def refuse(*_):
    raise torch.OutOfMemoryError("full")
torch.cuda.caching_allocator_alloc = refuse
try:
    layer(x).sum().backward()
except torch.OutOfMemoryError as error:
    assert "OUT_OF_MEMORY" in str(error), error
else:
    raise AssertionError("no error")
print("done")
"""


def test_launches_on_a_driver_that_runs_nothing():
    folder = os.environ.get("QCONV_FAKE_DRIVER")
    if not folder or not Path(folder).exists():
        pytest.skip("QCONV_FAKE_DRIVER names no folder: built without CUDA kernels, or outside of ctest")
    # Native calls know tensors of the CPU, which here pass for those of a GPU.
    environment = os.environ | {"LD_LIBRARY_PATH": folder, "QCONV_FAKE_CUDA": "unified", "QCONV_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", ON_FAKE_DRIVER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", LAYERS)
def test_results_on_a_gpu(name):
    layer = LAYERS[name]()
    x = torch.randn(5, layer.in_channels, 300)
    want = step(layer, x, layer.weight)
    twin = LAYERS[name]().cuda()
    twin.load_state_dict(layer.state_dict())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = twin(xg := x.cuda().requires_grad_())
        grads = torch.autograd.grad(
            y, [xg, twin.weight], torch.linspace(-1, 1, y.numel(), device="cuda").view_as(y)
        )
    side.synchronize()
    for a, b in zip([y.detach(), *grads], want, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)
