"""The training loop of examples/train learns, and writes what it says."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train" / "train.py"


@pytest.fixture
def train(monkeypatch):
    """The example, its network made small."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # the example adds a folder
    spec = importlib.util.spec_from_file_location("train_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    width, residuals = 32, 2
    layers = [dict(layer) for layer in module.LAYERS[: residuals + 1]]
    for n, layer in enumerate(layers):
        layer["out_channels"] = width
        if n > 0:
            layer["in_channels"] = width
    monkeypatch.setattr(module, "WIDTH", width)
    monkeypatch.setattr(module, "RESIDUALS", residuals)
    monkeypatch.setattr(module, "LAYERS", layers)
    return module


def write_recordings(path, rng, count):
    """Nine speakers told apart by the mean of their coefficients, in the format of the data set."""
    lines = ["@data"]
    for i in range(count):
        speaker = i % 9
        frames = rng.integers(8, 20)
        means = np.cos(np.arange(12) * (speaker + 1))[:, None]
        series = means + 0.3 * rng.standard_normal((12, frames))
        lines.append(":".join(",".join(f"{v:.4f}" for v in row) for row in series) + f":{speaker + 1}")
    path.write_text("\n".join(lines) + "\n")


def test_training_loop(train, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    write_recordings(tmp_path / "JapaneseVowels_TRAIN.ts", rng, 108)
    write_recordings(tmp_path / "JapaneseVowels_TEST.ts", rng, 36)
    arguments = ["--recordings", tmp_path, "--output", tmp_path / "runs", "--export", tmp_path / "out", "--epochs", 6]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        train.main()
    finally:
        torch.set_num_threads(threads)
    history = json.loads((tmp_path / "runs" / "qconv-1.json").read_text())
    assert len(history["losses"]) == 6 * 2
    assert history["losses"][-1] < 0.7 * history["losses"][0]
    assert history["tests"][-1][2] > 0.9  # a guess is right in 11%
    layers = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert len(layers["layers"] if isinstance(layers, dict) else layers) == 3
    assert (tmp_path / "out" / "data" / "predictions.npy").exists()
