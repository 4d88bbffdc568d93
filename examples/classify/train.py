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

A quantizer is a step: an input within rounding error of a step may fall on either side of it in two programs that add
in different orders, and both are right. So that the demo can demand identical predictions, the training ends by moving
each batch norm's shift a little (at most NUDGE) to where no activation of the test recordings lies near a step. Labels
play no part in it; the accuracy before and after is printed. bitorch's predictions are made after it, with the same
weights.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bitorch.layers import QConv1d
from bitorch.layers.qconv1d import QConv1d_NoAct
from bitorch.quantizations import InputDoReFa, Sign, WeightDoReFa

SPEAKERS, COEFFICIENTS = 9, 12
WIDTH, WIDE = 64, 96  # channels of conv0 to conv2, and of conv3 and conv4
BITS = 4
NUDGE = 4e-3    # furthest move of a batch norm's shift
MARGIN = 2e-5   # least distance from an activation to a step; rounding moves these sums by less than 2e-6

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


def read_recordings(path):
    """A .ts file: after @data one recording a line, series split by ':', values by ',', the label last."""
    recordings, labels = [], []
    body = path.read_text().split("@data\n", 1)[1]
    for line in body.splitlines():
        *series, label = line.strip().split(":")
        recordings.append(np.array([[float(v) for v in s.split(",")] for s in series], np.float32))
        labels.append(int(label) - 1)
    return recordings, np.array(labels)


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


def predict(model, recordings):
    """Logits, one recording at a time, as the demo runs."""
    with torch.no_grad():
        return torch.cat([model(torch.from_numpy(r)[None]) for r in recordings]).numpy()


def distance_to_step(values, norm):
    """How far each activation that leaves norm number `norm` is from the nearest step of the quantizer after it."""
    if norm != 3:
        return np.abs(values)
    levels = 2**BITS - 1
    step = np.clip(np.floor(values * levels), 0, levels - 1) + 0.5
    return np.abs(values * levels - step) / levels


def gather(model, recordings, norm):
    """[channels, every position of every recording] of the activations that leave norm number `norm`."""
    with torch.no_grad():
        return np.concatenate([model.activations(torch.from_numpy(r)[None])[0][norm][0].numpy() for r in recordings], 1)


def move_off_steps(model, recordings):
    """Front to back: the shift of each channel of the norms before a step goes to the roomiest of 801 places."""
    moves = np.linspace(-NUDGE, NUDGE, 801)
    for norm in (0, 1, 3):
        values = gather(model, recordings, norm).astype(np.float64)
        for channel, row in enumerate(values):
            room = np.array([distance_to_step(row + m, norm).min() for m in moves])
            # The nearest place with enough room, else the roomiest.
            enough = np.flatnonzero(room >= 3 * MARGIN)
            best = enough[np.abs(moves[enough]).argmin()] if len(enough) else room.argmax()
            model.norms[norm].bias.data[channel] += float(moves[best])
    margins = {norm: distance_to_step(gather(model, recordings, norm), norm).min() for norm in (0, 1, 3)}
    assert min(margins.values()) >= MARGIN, margins
    return margins


def move_weights_off_ties(weight):
    """The same for weights that weightdorefa would round within 1e-4 of a tie: a tanh may differ in its last bit."""
    while True:
        t = np.tanh(weight.detach().numpy().astype(np.float64))
        level = (t / (2 * np.abs(t).max()) + 0.5) * (2**BITS - 1)
        near = np.abs(level - np.floor(level) - 0.5) < 1e-4
        if not near.any():
            return
        weight.data[torch.from_numpy(near)] += 1e-4


def save(folder, name, array):
    folder.mkdir(exist_ok=True)
    np.save(folder / name, np.ascontiguousarray(array, np.float32))


def write(folder, model, recordings, labels, logits):
    weights, data = folder / "weights", folder / "data"
    for n, layer in enumerate(LAYERS):
        save(weights, f"{layer['name']}_weight.npy", model.convs[n].weight.detach().numpy())
        norm = model.norms[n]
        # Batch norm in evaluation is h * scale + shift; torch computes it from these two numbers as well.
        scale = norm.weight * (1 / torch.sqrt(norm.running_var + norm.eps))
        save(weights, f"bn{n}_scale.npy", scale.detach().numpy())
        save(weights, f"bn{n}_shift.npy", (norm.bias - norm.running_mean * scale).detach().numpy())
    save(weights, "conv0_bias.npy", model.convs[0].bias.detach().numpy())
    save(weights, "linear_weight.npy", model.linear.weight.detach().numpy())
    save(weights, "linear_bias.npy", model.linear.bias.detach().numpy())
    save(data, "recordings.npy", np.concatenate([r.ravel() for r in recordings]))
    save(data, "frames.npy", [r.shape[1] for r in recordings])
    save(data, "speakers.npy", labels)
    save(data, "bitorch_logits.npy", logits)
    save(data, "bitorch_predictions.npy", logits.argmax(axis=1))
    lines = ",\n".join("  " + json.dumps(layer) for layer in LAYERS)
    (folder / "layers.json").write_text(f"[\n{lines}\n]\n")


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
    accuracy = lambda logits: (logits.argmax(axis=1) == labels).mean()
    print(f"test accuracy as trained: {accuracy(predict(model, recordings)):.2%}")
    move_weights_off_ties(model.convs[4].weight)
    margins = move_off_steps(model, recordings)
    logits = predict(model, recordings)
    print(f"test accuracy, written:   {accuracy(logits):.2%} of {len(labels)} recordings")
    print("least distance to a step: " + ", ".join(f"bn{n} {m:.1e}" for n, m in margins.items()))
    best = np.sort(logits, axis=1)
    print(f"least lead of the best logit: {(best[:, -1] - best[:, -2]).min():.1e}")
    write(args.output, model, recordings, labels, logits)


if __name__ == "__main__":
    main()
