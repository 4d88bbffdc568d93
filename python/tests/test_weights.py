"""Weights that change by ways that PyTorch does not count: layers compute with them as they are, as torch.nn.Conv1d does."""

import copy
import gc
import os
import subprocess
import sys

import pytest
import torch
from torch import multiprocessing, nn
from torch.nn import functional

import qconv
from qconv import _cache

CHANGES = {
    "data.mul_.add_": lambda t: t.data.mul_(0.1).add_(torch.randn_like(t)),  # an average, a target network
    "data.copy_": lambda t: t.data.copy_(torch.randn_like(t)),
    "data.clamp_": lambda t: t.data.mul_(-3).clamp_(-1, 1),
    "a row": lambda t: t.data[t.shape[0] // 2].neg_(),
    "the last row": lambda t: t.data[-1].neg_(),
    "an input channel": lambda t: t.data[:, 1].neg_(),
    "a tap": lambda t: t.data[..., 2].neg_(),
    "_foreach on data": lambda t: torch._foreach_mul_([t.data], -1.0),
    "numpy": lambda t: t.detach().numpy().__imul__(-1),
    "dlpack": lambda t: torch.from_dlpack(t.detach()).mul_(-1),
    "data assigned": lambda t: setattr(t, "data", torch.randn_like(t)),
    "data emptied and assigned": lambda t: empty_and_assign(t),
    "data exchanged": lambda t: setattr(t, "data", -t.data),
    "storage resized": lambda t: refill(t),
    "swap_tensors": lambda t: torch.utils.swap_tensors(t, nn.Parameter(torch.randn_like(t))),
    "in place": lambda t: t.neg_(),
}


def empty_and_assign(tensor):
    """The allocator may well hand out the old address."""
    shape = tensor.shape
    tensor.data = torch.empty(0)
    tensor.data = torch.randn(shape)


def refill(tensor):
    """As FSDP2 frees and gathers."""
    new, storage = -tensor.data, tensor.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    storage.resize_(size)
    tensor.data.copy_(new)


def fresh(layer, x):
    """What the layer computes, by a copy that nothing is kept of."""
    with torch.no_grad():
        return copy.deepcopy(layer)(x)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("channels", [8, 96])  # read whole, and in parts
@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen_by_the_next_call(change, channels, training):
    layer = qconv.QConv1d_NoAct(channels, channels, 3, weight_quantization="identity")
    x = torch.randn(2, channels, 20, requires_grad=training)
    for _ in range(6):
        with torch.set_grad_enabled(training):
            before = layer(x).detach()  # whose graph goes: it refers to the weight
            with torch.no_grad():
                CHANGES[change](layer.weight)
            now = layer(x).detach()
        assert torch.equal(now, fresh(layer, x))
        assert not torch.equal(now, before)


def test_a_change_between_forward_and_backward_is_seen_by_backward():
    """As by torch.nn.Conv1d, which keeps the weight and not a copy of it."""
    layer, x = qconv.QConv1d_NoAct(96, 96, 3, weight_quantization="identity"), torch.randn(1, 96, 20, requires_grad=True)
    y = layer(x)
    layer.weight.data[5, 7, 1] += 100
    (grad,) = torch.autograd.grad(y.sum(), x)
    expected = torch.autograd.grad(functional.conv1d(x, layer.weight).sum(), x)[0]
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-3)


def flip_one(layer):
    layer.weight.data[11, 45, 1] *= -1


def test_a_single_element_is_seen_within_eight_calls():
    layer, x = qconv.QConv1d(96, 96, 3), torch.randn(1, 96, 20)
    with torch.no_grad():
        layer(x)
        for _ in range(10):
            flip_one(layer)
            expected = fresh(layer, x)
            assert any(torch.equal(layer(x), expected) for _ in range(8))


def test_exact_sees_a_single_element_at_once():
    layer, x = qconv.QConv1d(96, 96, 3), torch.randn(1, 96, 20)
    with torch.no_grad(), qconv.check_weights("exact"):
        for _ in range(10):
            layer(x)
            flip_one(layer)
            assert torch.equal(layer(x), fresh(layer, x))


def test_training_sees_a_single_element_at_once():
    layer, x = qconv.QConv1d(96, 96, 3), torch.randn(1, 96, 20)
    for _ in range(10):
        layer(x)
        flip_one(layer)
        assert torch.equal(layer(x), fresh(layer, x))


def test_frozen_weights_are_not_looked_at_but_counted_changes_are_seen():
    layer, x = qconv.QConv1d(4, 4, 3), torch.randn(1, 4, 20)
    with torch.no_grad():
        with qconv.check_weights("frozen"):
            before = layer(x)
            layer.weight.data.neg_()
            assert torch.equal(layer(x), before)
            qconv.repack(layer)
            assert torch.equal(layer(x), -before)
            layer.weight.neg_()
            assert torch.equal(layer(x), before)
            layer.weight.data.neg_()
        assert torch.equal(layer(x), -before)


def test_the_way_of_checking():
    with pytest.raises(ValueError, match="how is 'never'; it must be one of 'sampled', 'exact', 'frozen'"):
        qconv.check_weights("never")
    program = "import qconv; from qconv._library import LIBRARY; print(LIBRARY.qconv_get_weight_check())"
    for how, number in (("", 0), ("exact", 1), ("frozen", 2)):
        environment = os.environ | {"QCONV_CHECK_WEIGHTS": how}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.stdout == f"{number}\n", done.stderr
    environment = os.environ | {"QCONV_CHECK_WEIGHTS": "exat"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "ImportError: QCONV_CHECK_WEIGHTS: how is 'exat'" in done.stderr


def test_views_of_one_place():
    """Layers go by the address: views of one tensor share it, whatever their strides."""
    weight, x = torch.randn(6, 6, 3), torch.randn(1, 6, 20)
    for view in (weight, weight.transpose(0, 1), weight.detach(), weight.flip(0), weight[:, :, :1], weight[:4]):
        expected = functional.conv1d(x, view)
        torch.testing.assert_close(qconv.conv1d(x, view), expected, rtol=1e-5, atol=1e-5)


def test_biases_are_followed():
    weight, bias, x = torch.randn(4, 4, 3), torch.zeros(4), torch.randn(1, 4, 12)
    for _ in range(3):
        torch.testing.assert_close(qconv.conv1d(x, weight, bias), functional.conv1d(x, weight, bias))
        bias.data.add_(1)
    torch.testing.assert_close(qconv.conv1d(x, weight), functional.conv1d(x, weight))


def test_conversions_by_swapping():
    layer, x = qconv.QConv1d(8, 8, 3), torch.randn(1, 8, 20)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer(x).sum().backward()
        layer.zero_grad()
        layer.load_state_dict({"weight": -layer.weight})
        assert torch.equal(layer(x), fresh(layer, x))
        assert torch.equal(layer.double()(x.double()), fresh(layer, x.double()))
        assert torch.equal(layer.float()(x), fresh(layer, x))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_packed_layers_go_with_the_memory():
    gc.collect()
    before, x = _cache.count_weights(), torch.randn(1, 4, 12)
    layer = qconv.QConv1d(4, 4, 3)
    for _ in range(5):
        layer(x)
        assert _cache.count_weights() == before + 1
        layer.weight.data = torch.randn(4, 4, 3)
        assert _cache.count_weights() == before
    qconv.conv1d(x, layer.weight * 2)
    assert _cache.count_weights() == before
    twin = copy.deepcopy(layer)
    layer(x), twin(x)
    assert _cache.count_weights() == before + 2
    del layer, twin
    gc.collect()
    assert _cache.count_weights() == before


def negate(shared):
    shared.neg_()


def test_changes_by_another_process():
    layer, x = qconv.QConv1d(4, 4, 3).share_memory(), torch.randn(1, 4, 12)
    with torch.no_grad():
        before = layer(x)
        process = multiprocessing.get_context("spawn").Process(target=negate, args=(layer.weight.detach(),))
        process.start()
        process.join(120)
        assert process.exitcode == 0
        assert torch.equal(layer(x), -before)


def data():
    torch.manual_seed(1)
    return torch.randn(4, 16, 50), torch.randn(4, 16, 50)


def losses_of(net, x, target, share):
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.5), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = functional.mse_loss(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(share(loss.detach()))
    return losses


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(qconv.QConv1d(16, 16, 3, padding=1), qconv.QConv1d(16, 16, 3, padding=1))


def shard(rank, store, queue):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    net, mesh = two_layers(), init_device_mesh("cpu", (2,))
    for module in (*net, net):
        fully_shard(module, mesh=mesh)

    def share(loss):
        distributed.all_reduce(loss)
        return loss.item() / 2

    queue.put(losses_of(net, *(t[2 * rank : 2 * rank + 2] for t in data()), share))
    distributed.destroy_process_group()


def test_fsdp2_trains_as_one_process_does(tmp_path):
    alone = losses_of(two_layers(), *data(), lambda loss: loss.item())
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=shard, args=(rank, tmp_path / "store", queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    sharded = [queue.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join(60)
    for losses in sharded:
        assert losses == pytest.approx(alone, rel=1e-4)
