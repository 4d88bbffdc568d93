#!/usr/bin/env python3
"""Trains a binary 1-D network from scratch to tell nine speakers apart, with qconv's layers or with bitorch's.

    train.py --layers qconv --seed 1 --recordings FOLDER --output FOLDER [--export FOLDER]

What differs between the two is where QConv1d is imported from. The network, per recording [12, frames]:

    h = norm0(conv0(x))                 torch.nn.Conv1d, real numbers
    h = normN(convN(h)) + h             QConv1d, sign inputs and weights, dilation 1, 2, 1, 2, ...; 8 times
    logits = linear(mean over time(hardtanh(h)))

Recordings differ in length. Each training batch is brought to one length, drawn anew, by linear interpolation in time
(the speaking rate varies); tests run every recording as it is. Writes LAYERS-SEED.json with the loss of every step and
the accuracies; with --export also what an application needs to classify (shared/export.py).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent / "shared"))
from export import accuracy, move_off_steps, predict, write
from recordings import COEFFICIENTS, SPEAKERS, read_recordings

WIDTH, RESIDUALS, TAPS = 256, 8, 3
BATCH, LENGTHS, NOISE = 54, (14, 30), 0.03

LAYERS = [{"name": "conv0", "layer": "conv1d", "in_channels": COEFFICIENTS, "out_channels": WIDTH, "kernel_size": 5,
           "padding": "same", "bias": True}]
LAYERS += [{"name": f"conv{n}", "layer": "QConv1d", "in_channels": WIDTH, "out_channels": WIDTH, "kernel_size": TAPS,
            "dilation": 2 - n % 2, "padding": "same", "input_quantization": "sign", "weight_quantization": "sign",
            "gradient_cancellation_threshold": 1.0} for n in range(1, RESIDUALS + 1)]


class Network(nn.Module):
    def __init__(self, classes: dict[str, type]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for layer in LAYERS:
            arguments = {k: v for k, v in layer.items() if k not in ("name", "layer")}
            conv = classes[layer["layer"]](**arguments)
            # bitorch's QConv1d is a container that may swap its implementation; the module inside owns the weights.
            self.convs.append(getattr(conv, "_layer_implementation", conv))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in LAYERS)
        self.linear = nn.Linear(WIDTH, SPEAKERS)

    def activations(self, x: torch.Tensor) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """What enters the sign of the layer after each norm, and the last h."""
        h = self.norms[0](self.convs[0](x))
        signed = {}
        for n in range(1, len(self.convs)):
            signed[n - 1] = h
            h = self.norms[n](self.convs[n](h)) + h
        return signed, h

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(F.hardtanh(self.activations(x)[1]).mean(dim=2))


def layer_classes(layers: str) -> dict[str, type]:
    if layers == "qconv":
        from qconv import QConv1d
    else:
        from bitorch.layers import QConv1d
    return {"conv1d": nn.Conv1d, "QConv1d": QConv1d}


def batches(recordings: list[np.ndarray], labels: np.ndarray,
            rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch: shuffled batches of recordings, those of a batch brought to one length, with a little noise."""
    order = rng.permutation(len(recordings))
    for start in range(0, len(order), BATCH):
        chosen = order[start:start + BATCH]
        length = int(rng.integers(*LENGTHS, endpoint=True))
        parts = [F.interpolate(torch.from_numpy(recordings[i])[None], length, mode="linear", align_corners=True)
                 for i in chosen]
        x = torch.cat(parts)
        yield x + NOISE * torch.randn_like(x), torch.from_numpy(labels[chosen])


def train(model: nn.Module, recordings: list[np.ndarray], labels: np.ndarray, epochs: int, rng: np.random.Generator,
          test) -> dict:
    """The loss of every step; after the first epochs and every fifth (epoch, seconds of training so far, test())."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses, tests, seconds = [], [], 0.0
    for epoch in range(1, epochs + 1):
        model.train()
        start = time.perf_counter()
        for x, label in batches(recordings, labels, rng):
            loss = F.cross_entropy(model(x), label, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        seconds += time.perf_counter() - start
        if epoch < 5 or epoch % 5 == 0 or epoch == epochs:
            tests.append((epoch, seconds, test()))
            print(f"epoch {epoch:3d}: loss {losses[-1]:.4f}, test accuracy {tests[-1][2]:.2%}, {seconds:.1f} s",
                  flush=True)
    return dict(losses=losses, tests=tests, seconds=seconds)


def export(folder: Path, model: Network, recordings: list[np.ndarray], labels: np.ndarray) -> None:
    margins = move_off_steps(model, recordings, dict.fromkeys(range(RESIDUALS)))
    logits = predict(model, recordings)
    print(f"exported to {folder}: test accuracy {accuracy(logits, labels):.2%}, no activation within "
          f"{min(margins.values()):.1e} of a step")
    write(folder, LAYERS, model, recordings, labels, logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", choices=["qconv", "bitorch"], default="qconv")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recordings", type=Path, required=True,
                        help="folder with JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts")
    parser.add_argument("--output", type=Path, required=True, help="folder of LAYERS-SEED.json")
    parser.add_argument("--export", type=Path, help="folder to write the trained network and its predictions to")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    model = Network(layer_classes(a.layers))
    recordings, labels = read_recordings(a.recordings / "JapaneseVowels_TEST.ts")
    history = train(model, *read_recordings(a.recordings / "JapaneseVowels_TRAIN.ts"), a.epochs,
                    np.random.default_rng(a.seed), lambda: accuracy(predict(model, recordings), labels))
    a.output.mkdir(parents=True, exist_ok=True)
    history.update(layers=a.layers, seed=a.seed, epochs=a.epochs, threads=a.threads)
    (a.output / f"{a.layers}-{a.seed}.json").write_text(json.dumps(history) + "\n")
    if a.export:
        export(a.export, model, recordings, labels)


if __name__ == "__main__":
    main()
