#!/usr/bin/env python3
"""Compares the trainings of train.py: a table on standard output, curves to a file.

    curves.py FOLDER_OF_JSON curves.svg
"""

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
# The same text in every run, and letters as letters.
matplotlib.rcParams.update({"svg.hashsalt": "qconv", "svg.fonttype": "none", "font.size": 9})
from matplotlib import pyplot

COLORS = dict(qconv="#0b6e4f", bitorch="#b8562b")


def steps_alike(ours: list[float], theirs: list[float], tolerance: float) -> int:
    """Steps from the start whose losses agree."""
    for step, (a, b) in enumerate(zip(ours, theirs)):
        if abs(a - b) > tolerance:
            return step
    return min(len(ours), len(theirs))


def table(runs: dict[tuple[str, int], dict]) -> None:
    seeds = sorted({seed for _, seed in runs})
    sides = [s for s in COLORS if any(layers == s for layers, _ in runs)]
    print("seed " + "".join(f"{s + ' accuracy':>18}{s + ' seconds':>18}" for s in sides)
          + ("     ratio   losses alike to 1e-5, 1e-3 for" if len(sides) == 2 else ""))
    for seed in seeds:
        mine = [runs.get((side, seed)) for side in sides]
        cells = (f"{r['tests'][-1][2]:18.2%}{r['seconds']:18.1f}" if r else " " * 36 for r in mine)
        line = f"{seed:4d} " + "".join(cells)
        if len(sides) == 2 and all(mine):
            ours, theirs = (r["losses"] for r in mine)
            alike = [steps_alike(ours, theirs, tolerance) for tolerance in (1e-5, 1e-3)]
            line += f"{mine[1]['seconds'] / mine[0]['seconds']:9.2f}x   {alike[0]}, {alike[1]} of {len(ours)} steps"
        print(line)
    for side in sides:
        mine = [r for (layers, _), r in runs.items() if layers == side]
        print(f"{side}: mean accuracy {statistics.fmean(r['tests'][-1][2] for r in mine):.2%}, "
              f"mean {statistics.fmean(r['seconds'] for r in mine):.1f} s")


def plot(runs: dict[tuple[str, int], dict], path: Path) -> None:
    figure, (loss, by_epoch, by_time) = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for (layers, seed), r in sorted(runs.items(), reverse=True):
        per_epoch = len(r["losses"]) // r["epochs"]
        means = [statistics.fmean(r["losses"][i:i + per_epoch]) for i in range(0, len(r["losses"]), per_epoch)]
        epochs, seconds, accuracy = zip(*r["tests"])
        first = seed == min(s for other, s in runs if other == layers)
        style = dict(color=COLORS[layers], linewidth=1.2, alpha=0.8, label=layers if first else None)
        loss.plot(range(1, len(means) + 1), means, **style)
        by_epoch.plot(epochs, [100 * a for a in accuracy], **style)
        by_time.plot(seconds, [100 * a for a in accuracy], **style)
    loss.set(xlabel="epoch", ylabel="training loss")
    by_epoch.set(xlabel="epoch", ylabel="test accuracy, %")
    by_time.set(xlabel="seconds of training, one thread", ylabel="test accuracy, %")
    for axes in (loss, by_epoch, by_time):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    print(f"written: {path}")


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    runs = {}
    for path in sorted(Path(sys.argv[1]).glob("*-*.json")):
        run = json.loads(path.read_text())
        runs[run["layers"], run["seed"]] = run
    if not runs:
        raise SystemExit(f"curves.py: no LAYERS-SEED.json in {sys.argv[1]}; train.py writes them")
    table(runs)
    plot(runs, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
