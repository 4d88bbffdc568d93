"""From a trained network to what an application reads: layers.json, weights/, data/.

The network is a module with `convs`, `norms` (a batch norm after each convolution), `linear`, and
`activations(x) -> ({norm number: what leaves it for a quantizer}, what is averaged over time)`.

A quantizer is a step: an input within rounding error of a step may fall on either side of it in two programs that add
in different orders, and both are right. So that predictions can be compared exactly, move_off_steps moves each batch
norm's shift a little (at most NUDGE) to where no activation of the given recordings lies near a step. Labels play no
part in it.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

NUDGE = 4e-3   # furthest move of a batch norm's shift
MARGIN = 2e-5  # least distance from an activation to a step; rounding moves these sums by less than 2e-6


def predict(model: nn.Module, recordings: list[np.ndarray]) -> np.ndarray:
    """Logits, one recording at a time, as an application runs."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(torch.from_numpy(r)[None]) for r in recordings]).numpy()


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def distance_to_step(values: np.ndarray, levels: int | None) -> np.ndarray:
    """How far each value is from the nearest step: of sign (None), or of rounding 0..1 to that many levels above 0."""
    if levels is None:
        return np.abs(values)
    step = np.clip(np.floor(values * levels), 0, levels - 1) + 0.5
    return np.abs(values * levels - step) / levels


def gather(model: nn.Module, recordings: list[np.ndarray], norm: int) -> np.ndarray:
    """[channels, every position of every recording] of the activations that leave norm number `norm`."""
    with torch.no_grad():
        parts = [model.activations(torch.from_numpy(r)[None])[0][norm][0].numpy() for r in recordings]
    return np.concatenate(parts, 1).astype(np.float64)


def move_off_steps(model: nn.Module, recordings: list[np.ndarray], steps: dict[int, int | None]) -> dict[int, float]:
    """Front to back, the shift of each channel of the norms in `steps` (norm number: levels, as in distance_to_step)
    goes to the nearest of 801 places with room, else to the roomiest. Returns the least distances to a step after it.
    """
    moves = np.linspace(-NUDGE, NUDGE, 801)
    for norm, levels in steps.items():
        for channel, row in enumerate(gather(model, recordings, norm)):
            row = row[distance_to_step(row, levels) < NUDGE + 3 * MARGIN]  # no other comes near a step
            room = np.array([distance_to_step(row + m, levels).min(initial=np.inf) for m in moves])
            enough = np.flatnonzero(room >= 3 * MARGIN)
            best = enough[np.abs(moves[enough]).argmin()] if len(enough) else room.argmax()
            model.norms[norm].bias.data[channel] += float(moves[best])
    margins = {norm: distance_to_step(gather(model, recordings, norm), levels).min() for norm, levels in steps.items()}
    if min(margins.values()) < MARGIN:
        raise SystemExit(f"an activation lies within {MARGIN} of a step after a batch norm: {margins}; raise NUDGE")
    return margins


def save(folder: Path, name: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, np.ascontiguousarray(array, np.float32))


def write(folder: Path, layers: list[dict], model: nn.Module, recordings: list[np.ndarray], labels: np.ndarray,
          logits: np.ndarray) -> None:
    """layers: the entries of layers.json, one for each of model.convs."""
    weights, data = folder / "weights", folder / "data"
    for n, (layer, conv, norm) in enumerate(zip(layers, model.convs, model.norms, strict=True)):
        save(weights, f"{layer['name']}_weight.npy", conv.weight.detach().numpy())
        if conv.bias is not None:
            save(weights, f"{layer['name']}_bias.npy", conv.bias.detach().numpy())
        # Batch norm in evaluation is h * scale + shift; torch computes it from these two numbers as well.
        scale = norm.weight * (1 / torch.sqrt(norm.running_var + norm.eps))
        save(weights, f"bn{n}_scale.npy", scale.detach().numpy())
        save(weights, f"bn{n}_shift.npy", (norm.bias - norm.running_mean * scale).detach().numpy())
    save(weights, "linear_weight.npy", model.linear.weight.detach().numpy())
    save(weights, "linear_bias.npy", model.linear.bias.detach().numpy())
    save(data, "recordings.npy", np.concatenate([r.ravel() for r in recordings]))
    save(data, "frames.npy", np.array([r.shape[1] for r in recordings]))
    save(data, "speakers.npy", labels)
    save(data, "logits.npy", logits)
    save(data, "predictions.npy", logits.argmax(axis=1))
    lines = ",\n".join("  " + json.dumps(layer) for layer in layers)
    (folder / "layers.json").write_text(f"[\n{lines}\n]\n")
