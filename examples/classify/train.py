#!/usr/bin/env python3
"""Trains the demo's network with the real bitorch and writes everything the demo reads: layers.json, weights/, data/.

    apt-get install python3-torch python3-venv
    /usr/bin/python3 -m venv --system-site-packages train-venv
    train-venv/bin/pip install --no-deps bitorch==0.4.1
    train-venv/bin/pip install pandas==2.0.3 matplotlib==3.7.5 numpy==1.24.2        # bitorch imports both
    train-venv/bin/pip download --no-deps aeon==1.6.0 && unzip aeon-1.6.0-*.whl 'aeon/datasets/data/JapaneseVowels/*'
    train-venv/bin/python train.py --recordings aeon/datasets/data/JapaneseVowels

The committed files were made so, with torch 1.13.1 (Debian's python3-torch). The network, per recording [12, frames]:

    h = bn0(conv0(x))                     conv1d, real numbers
    h = bn1(conv1(h)) + h                 QConv1d, sign inputs and weights
    h = bn2(conv2(h)) + h                 QConv1d, sign inputs and weights, dilated
    h = bn3(conv3(hardtanh(h)))           QConv1d_NoAct, real inputs, sign weights
    h = bn4(conv4(h))                     QConv1d, 4-bit inputs and weights
    logits = linear(mean over time(hardtanh(h)))

Recordings differ in length; a training batch holds recordings of one length, so nothing is ever padded by hand.

The training ends by moving each batch norm's shift off the quantizers' steps (shared/export.py says why); the accuracy
before and after is printed. bitorch's predictions are made after it, with the same weights.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bitorch.layers import QConv1d
from bitorch.layers.qconv1d import QConv1d_NoAct
from bitorch.quantizations import InputDoReFa, Sign, WeightDoReFa

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "shared"))
from export import accuracy, move_off_steps, predict, write
from recordings import COEFFICIENTS, SPEAKERS, read_recordings

WIDTH, WIDE = 64, 96  # channels of conv0 to conv2, and of conv3 and conv4
BITS = 4

LAYERS = [
    {"name": "conv0", "layer": "conv1d", "in_channels": COEFFICIENTS, "out_channels": WIDTH, "kernel_size": 5,
     "padding": "same", "bias": True},
    {"name": "conv1", "layer": "QConv1d", "in_channels": WIDTH, "out_channels": WIDTH, "kernel_size": 3,
     "padding": "same", "input_quantization": "sign", "weight_quantization": "sign"},
    {"name": "conv2", "layer": "QConv1d", "in_channels": WIDTH, "out_channels": WIDTH, "kernel_size": 3, "dilation": 2,
     "padding": "same", "input_quantization": "sign", "weight_quantization": "sign"},
    {"name": "conv3", "layer": "QConv1d_NoAct", "in_channels": WIDTH, "out_channels": WIDE, "kernel_size": 3,
     "padding": "same", "weight_quantization": "sign"},
    {"name": "conv4", "layer": "QConv1d", "in_channels": WIDE, "out_channels": WIDE, "kernel_size": 3,
     "padding": "same", "input_quantization": {"name": "inputdorefa", "bits": BITS},
     "weight_quantization": {"name": "weightdorefa", "bits": BITS}},
]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        classes = {"conv1d": nn.Conv1d, "QConv1d": QConv1d, "QConv1d_NoAct": QConv1d_NoAct}
        quantizers = {"sign": Sign, "inputdorefa": lambda: InputDoReFa(BITS),
                      "weightdorefa": lambda: WeightDoReFa(BITS)}
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for layer in LAYERS:
            extra = {"dilation": layer.get("dilation", 1)}
            for side in ("input_quantization", "weight_quantization"):
                if side in layer:
                    name = layer[side] if isinstance(layer[side], str) else layer[side]["name"]
                    extra[side] = quantizers[name]()
            conv = classes[layer["layer"]](layer["in_channels"], layer["out_channels"], layer["kernel_size"],
                                           padding=layer["padding"], **extra)
            # QConv1d is a container that may swap its implementation; the module inside is what owns the weights.
            self.convs.append(getattr(conv, "_layer_implementation", conv))
            self.norms.append(nn.BatchNorm1d(layer["out_channels"]))
        self.linear = nn.Linear(WIDE, SPEAKERS)

    def activations(self, x):
        """What enters the signs of conv1 and conv2 and the rounding of conv4, by the norm it leaves; and the last h."""
        block = lambda n, v: self.norms[n](self.convs[n](v))
        h0 = block(0, x)
        h1 = block(1, h0) + h0
        h2 = block(2, h1) + h1
        h3 = block(3, F.hardtanh(h2))
        return {0: h0, 1: h1, 3: h3}, block(4, h3)

    def forward(self, x):
        return self.linear(F.hardtanh(self.activations(x)[1]).mean(dim=2))


def batches(recordings, labels, size, rng):
    """Index arrays: shuffled batches of recordings of one length."""
    lengths = np.array([r.shape[1] for r in recordings])
    out = []
    for length in np.unique(lengths):
        members = rng.permutation(np.flatnonzero(lengths == length))
        out += [members[i:i + size] for i in range(0, len(members), size)]
    rng.shuffle(out)
    return [(torch.from_numpy(np.stack([recordings[i] for i in b])), torch.from_numpy(labels[b])) for b in out]


def train(model, recordings, labels, epochs, rng):
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for x, label in batches(recordings, labels, 24, rng):
            x = x + 0.03 * torch.randn_like(x)
            loss = F.cross_entropy(model(x), label, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(label)
        schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(labels):.3f}")
    model.eval()


def move_weights_off_ties(weight):
    """As move_off_steps, for weights that weightdorefa would round within 1e-4 of a tie: a tanh may differ in its last
    bit."""
    while True:
        t = np.tanh(weight.detach().numpy().astype(np.float64))
        level = (t / (2 * np.abs(t).max()) + 0.5) * (2**BITS - 1)
        near = np.abs(level - np.floor(level) - 0.5) < 1e-4
        if not near.any():
            return
        weight.data[torch.from_numpy(near)] += 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=pathlib.Path, required=True,
                        help="folder with JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    model = Network()
    train(model, *read_recordings(args.recordings / "JapaneseVowels_TRAIN.ts"), args.epochs, rng)

    recordings, labels = read_recordings(args.recordings / "JapaneseVowels_TEST.ts")
    print(f"test accuracy as trained: {accuracy(predict(model, recordings), labels):.2%}")
    move_weights_off_ties(model.convs[4].weight)
    margins = move_off_steps(model, recordings, {0: None, 1: None, 3: 2**BITS - 1})
    logits = predict(model, recordings)
    print(f"test accuracy, written:   {accuracy(logits, labels):.2%} of {len(labels)} recordings")
    print("least distance to a step: " + ", ".join(f"bn{n} {m:.1e}" for n, m in margins.items()))
    best = np.sort(logits, axis=1)
    print(f"least lead of the best logit: {(best[:, -1] - best[:, -2]).min():.1e}")
    write(args.output, LAYERS, model, recordings, labels, logits)


if __name__ == "__main__":
    main()
