"""The matrix of quantizers (bench/matrix.json), which qconvc bench --matrix takes too."""
import json
from pathlib import Path

# What gives -1 and +1 alone, in training as in inference.
BINARY = {"sign", "approxsign", "swishsign", "steheaviside", "weightdorefa1"}


def read_matrix():
    """Rows, input quantizers and weight quantizers; "inputdorefa(2)" is inputdorefa2 here."""
    matrix = json.loads((Path(__file__).resolve().parent / "matrix.json").read_text())
    inputs, weights = ([name.translate(str.maketrans("", "", "()")) for name in matrix[side]]
                       for side in ("input_quantization", "weight_quantization"))
    return matrix["rows"], inputs, weights


def matrix_pairs():
    _, inputs, weights = read_matrix()
    return [f"{left}/{right}" for left in inputs for right in weights]


def is_binary(pair):
    return all(name in BINARY for name in pair.split("/"))
