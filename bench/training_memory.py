#!/usr/bin/env python3
"""Memory of a training step of a binary temporal convolutional network, qconv's layers beside bitorch's.

    bench/training_memory.py                            12 layers, 128 channels, 16 recordings of 1000 positions
    bench/training_memory.py --network chain            a convolution after the other
    bench/training_memory.py --network batch-norm       with batch norms, which keep their inputs on both sides

Two figures a side, each from a process of its own:
    saved   what autograd keeps from the forward pass for the backward pass: the bytes of the distinct storages that
            reach torch.autograd.graph.saved_tensors_hooks, without parameters, buffers and the network's input
    peak    how far the process's resident memory (VmHWM) rises in a step above what it was before the first step of
            this size; everything counts, scratch and passing gradients too
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from peers import add_environment_options, enter_venv, find_qconv

KERNEL_SIZE = 3
NETWORKS = {
    "chain": "every convolution feeds the next",
    "residual": "h + factor * convolution(h)",
    "batch-norm": "h + norm(convolution(h))",
}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=12)
    p.add_argument("--channels", type=int, default=128)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--width", type=int, default=1000)
    p.add_argument("--network", choices=NETWORKS, default="residual",
                   help="; ".join(f"{name}: {what}" for name, what in NETWORKS.items()) + " (default residual)")
    p.add_argument("--output", type=Path, help="also write the figures to this .json")
    p.add_argument("--side", choices=["qconv", "bitorch"], help=argparse.SUPPRESS)  # the process of one side
    add_environment_options(p)
    return p.parse_args()


def network(a):
    import torch
    from torch import nn
    if a.side == "qconv":
        from qconv import QConv1d
    else:
        from bitorch.layers import QConv1d

    class Block(nn.Module):
        def __init__(self, dilation):
            super().__init__()
            self.conv = QConv1d(a.channels, a.channels, KERNEL_SIZE, padding="same", dilation=dilation,
                                gradient_cancellation_threshold=1.0)
            self.norm = nn.BatchNorm1d(a.channels) if a.network == "batch-norm" else None
            self.scale = (a.channels * KERNEL_SIZE) ** -0.5

        def forward(self, h):
            if a.network == "chain":
                return self.conv(h)
            if a.network == "residual":
                return torch.add(h, self.conv(h), alpha=self.scale)  # keeps no product beside the sum
            return h + self.norm(self.conv(h))

    return nn.Sequential(*(Block(2 ** (i % 6)) for i in range(a.layers)))


def resident(field):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field))
    return 1024 * int(line.split()[1])


def measure(a):
    import torch
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network(a)

    def step(x):
        model(x).mean().backward()

    # What a first step sets up (threads, primitives, the gradients of the weights) is no activation.
    step(torch.randn(1, a.channels, 2 * KERNEL_SIZE * 2 ** min(a.layers, 6)))
    x = torch.randn(a.batch, a.channels, a.width, requires_grad=True)
    x.grad = torch.zeros_like(x)
    before = resident("VmRSS")
    step(x)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    step(x)
    peak = resident("VmHWM") - before

    given = {t.untyped_storage().data_ptr() for t in (x, *model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(x).mean()  # keeps the graph, so that no storage is freed and its address used again
    saved = sum(kept.values())
    loss.backward()
    print(json.dumps(dict(saved=saved, peak=peak, activation=x.nbytes)))


def main():
    a = arguments()
    enter_venv(a.venv, __file__)
    if a.side == "qconv":
        find_qconv(a)
    if a.side:
        return measure(a)
    results = {}
    for side in ("qconv", "bitorch"):
        # Freed tensors go back to the system at once, so that resident memory is memory in use.
        environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0", OMP_NUM_THREADS="1")
        run = subprocess.run([sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--side", side],
                             env=environment, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"training_memory.py: {side} failed:\n{run.stderr}")
        results[side] = json.loads(run.stdout)
    print(f"{a.layers} layers of {a.channels} channels, K {KERNEL_SIZE}, {NETWORKS[a.network]}, batch {a.batch}, width {a.width}; "
          f"one activation in float32 is {results['qconv']['activation'] / 1e6:.1f} MB\n")
    print(f"| | saved for backward, MB | peak of the process, MB |\n|---|---:|---:|")
    for side, r in results.items():
        print(f"| {side} | {r['saved'] / 1e6:.1f} | {r['peak'] / 1e6:.1f} |")
    ratios = [results["bitorch"][k] / results["qconv"][k] for k in ("saved", "peak")]
    print(f"| ratio | {ratios[0]:.1f}x | {ratios[1]:.1f}x |")
    if a.output:
        a.output.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
