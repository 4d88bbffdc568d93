#!/usr/bin/env python3
"""Draws docs/performance.svg from the tables in bench/results/: each layer's rate beside its rivals'.

usage: ./dev python bench/plot_results.py
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RIVALS = [  # the table's column, colour
    ("qconv", "tab:blue"),
    ("ONNX Runtime int8", "tab:orange"),
    ("PyTorch fp32 conv1d", "tab:green"),
    ("bitorch", "tab:red"),
]


def table(path: Path, heading: str) -> list[dict[str, str]]:
    """The rows of the first table below a heading, by column."""
    section = path.read_text().split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "qconv"  # the same file for the same figures
    rows = table(ROOT / "bench/results/zen4.md", "sign/sign")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, colour in reversed(RIVALS):
        points = []
        for row in rows:
            work, time = row["MMAC"].replace(",", ""), row[f"{name}, us"].replace(",", "")
            if re.fullmatch(r"[\d.]+", time):
                points.append((float(work), float(work) / float(time) * 1e3))
        axes.scatter(*zip(*points, strict=True), s=9, color=colour, label=name, linewidths=0)
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds of the layer, millions", ylabel="GMAC/s, one thread")
    axes.set_title("sign / sign, float in and out, Zen 4 (avx512_zen4 kernels)", fontsize=10)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8)
    figure.savefig(ROOT / "docs/performance.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
