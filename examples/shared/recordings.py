"""The recordings of the examples: the data set Japanese Vowels, as PyPI's aeon carries it (classify/data/NOTICE)."""

from pathlib import Path

import numpy as np

SPEAKERS, COEFFICIENTS = 9, 12


def read_recordings(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """A .ts file: after @data one recording a line, series split by ':', values by ',', the label last."""
    recordings, labels = [], []
    body = path.read_text().split("@data\n", 1)[1]
    for line in body.splitlines():
        *series, label = line.strip().split(":")
        recordings.append(np.array([[float(v) for v in s.split(",")] for s in series], np.float32))
        labels.append(int(label) - 1)
    return recordings, np.array(labels)
