#!/usr/bin/env python3
"""Makes backward_layers.json, backward.json and backward.bin with the real bitorch; make_golden.py says with which
versions, and what a layer file and its companions hold. A case has:
    name, batch, width, width_out, offset      as in forward.json
    exact      every product and partial sum of both gradients is a multiple of 2^-8 that float32 holds exactly
In backward.bin, x, weight, grad_output, grad_input and grad_weight follow one another, then grad_bias for conv1d with
bias. A gradient is NaN where bitorch's is: approxsign and swishsign of infinite and huge values, no threshold.

Thresholds are bitorch's where it has them; null sets the layer's own to 0, which is how bitorch itself switches
cancellation off (its constructor would turn None and 0 into 1).
"""

import argparse
import contextlib
import importlib.metadata
import io
import itertools
import math
import pathlib

import numpy as np
import torch
from torch.nn.functional import pad

import make_golden
from make_golden import BINARY, scheduled, spec

# channels, out, kernel, width, batch, stride, padding, dilation, groups, pad_value
GEOMETRIES = [
    (4, 6, 3, 14, 2, 1, 1, 1, 1, -1.0),
    (9, 5, 4, 13, 1, 1, "same", 2, 1, 0.0),
    (6, 9, 4, 15, 2, 2, [2, 1], 1, 1, 1.0),
    (6, 9, 2, 16, 1, 1, "same", 3, 3, 0.5),
    (17, 4, 3, 9, 1, 1, "valid", 2, 1, -1.0),
    (6, 6, 7, 17, 2, 1, 3, 1, 6, 0.5),
    (1, 3, 5, 30, 2, 3, 3, 1, 1, 0.0),
    (12, 8, 1, 13, 2, 1, 0, 1, 1, -1.0),
    (8, 8, 3, 23, 1, 5, 2, 1, 4, 1.0),
    (5, 4, 3, 14, 2, 1, [1, 0], 1, 1, 0.5),
    (3, 7, 6, 15, 1, 1, "same", 1, 1, 0.0),
    (8, 6, 3, 9, 2, 2, 2, 2, 2, -1.0),
    (3, 4, 8, 33, 1, 4, [7, 0], 1, 1, 1.0),
    (5, 6, 2, 8, 2, 1, [0, 3], 4, 1, 0.5),
    (8, 16, 3, 12, 1, 2, "valid", 1, 8, 0.0),
    (5, 1, 3, 5, 4, 1, 1, 1, 1, -1.0),
    (7, 6, 5, 5, 1, 1, 0, 1, 1, 0.5),
    (4, 6, 3, 11, 1, 3, [4, 4], 1, 2, 1.0),
]
THRESHOLDS = (1.0, None, 0.5)

PAIRS = (
    [(spec(a), spec(b)) for a in BINARY for b in BINARY]
    + [(spec("swishsign", beta=3.0), spec("swishsign", beta=8.0))]
    + [(spec("inputdorefa", bits=a), spec("weightdorefa", bits=b)) for a, b in ((1, 1), (2, 2), (4, 8), (8, 4))]
    + [(spec("inputdorefa", bits=2), spec("sign")), (spec("sign"), spec("weightdorefa", bits=2)),
       (spec("weightdorefa", bits=3), spec("inputdorefa", bits=3)), (spec("approxsign"), spec("weightdorefa", bits=1))]
    + [(spec("identity"), spec(b)) for b in ("sign", "identity", "approxsign")] + [(spec("sign"), spec("identity"))]
    + [(spec("progressive_sign", scale=0.4), spec("sign")), (spec("sign"), spec("progressive_sign", scale=0.4)),
       (spec("progressive_sign", scale=0.1, training=True), spec("sign")),
       (spec("sign"), spec("progressive_sign", scale=0.25, training=True)),
       (spec("progressive_sign", scale=0.3, alpha=2, beta=5, training=True),
        spec("progressive_sign", scale=0.3, alpha=2, beta=5, training=True))]
    + [(scheduled("mix_linear", 0.25, spec("identity"), spec("sign")), spec("sign")),
       (scheduled("mix_linear", 1.0 / 3.0, spec("approxsign"), spec("swishsign")), spec("sign")),
       (spec("sign"), scheduled("mix_linear", 0.75, spec("steheaviside"), spec("approxsign"))),
       (scheduled("mix_linear", 0.5, spec("identity"), spec("approxsign")),
        scheduled("mix_linear", 0.6, spec("weightdorefa", bits=4), spec("swishsign"))),
       (scheduled("mix_linear", 0.7, spec("identity"), spec("inputdorefa", bits=4), spec("sign")), spec("sign")),
       (scheduled("mix_linear", 1.0, spec("identity"), spec("sign")), spec("sign")),
       (scheduled("step", 0.5, spec("identity"), spec("inputdorefa", bits=4), spec("sign")), spec("sign")),
       (scheduled("step", 1.0, spec("identity"), spec("steheaviside")), spec("approxsign"))]
)
NOACT_WEIGHTS = ([spec(b) for b in BINARY]
                 + [spec("identity"), spec("weightdorefa", bits=2), spec("inputdorefa", bits=2),
                    spec("progressive_sign", scale=0.2, training=True), spec("progressive_sign", scale=0.2),
                    scheduled("mix_linear", 0.5, spec("approxsign"), spec("sign"))])


def sign_like(quantizer):
    return quantizer["name"] in ("sign", "steheaviside")


def edge_values(quantizer, threshold):
    """make_golden's, with the threshold, its neighbours, and NaN where bitorch's results are numbers."""
    values = list(make_golden.edge_values(quantizer))
    for t in {0.5, 1.0, threshold or 1.0}:
        at = np.float32(t)
        values += [sign * v for v in (at, np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(2)))
                   for sign in (1, -1)]
    if sign_like(quantizer):
        values.append(math.nan)
    return np.array(values, np.float32)


def draw(rng, shape, quantizer, edges):
    """Values of a tensor, `edges` strewn among them."""
    values = (rng.normal(size=shape) * 0.7).astype(np.float32)
    if edges is not None:
        spots = rng.permutation(values.size)[:max(1, min(values.size // 2, 2 * edges.size))]
        values.flat[spots] = np.resize(rng.permutation(edges), spots.size)
    for bits in make_golden.weightdorefa_bits(quantizer):
        make_golden.redraw_near_ties(values, bits, rng)
    return values


def multiple_of(values, step):
    return bool(np.all(np.isfinite(values)) and np.all(values / step == np.round(values / step)))


class Backward:
    def __init__(self, rng, writer):
        self.rng, self.writer = rng, writer

    def add(self, name, kind, geometry, input_q=None, weight_q=None, threshold=None, integers=False, edges=True,
            bias=False):
        """Runs one case. integers: an incoming gradient of small integers, so that sums with signs are exact."""
        rng = self.rng
        channels, out, kernel, width, batch, stride, padding, dilation, groups, pad_value = geometry
        layer = {"name": name, "layer": kind, "in_channels": channels, "out_channels": out, "kernel_size": kernel,
                 "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        if kind == "conv1d":
            layer["bias"], pad_value = bias, 0.0
        else:
            layer["pad_value"], layer["weight_quantization"] = pad_value, weight_q
        if kind == "QConv1d":
            layer["input_quantization"], layer["gradient_cancellation_threshold"] = input_q, threshold
        module = make_golden.torch_layer(layer)
        if kind == "QConv1d":
            module.activation.gradient_cancellation_threshold = threshold or 0

        x = draw(rng, (batch, channels, width), input_q, edge_values(input_q, threshold) if input_q and edges else None)
        weight_edges = edge_values(weight_q, None) if weight_q and edges else None
        if weight_edges is not None:  # the weight's gradient is not cancelled: no value whose surrogate is NaN
            weight_edges = weight_edges[np.abs(weight_edges) < 3]
        weight = draw(rng, (out, channels // groups, kernel), weight_q, weight_edges)
        tx = torch.from_numpy(x.copy()).requires_grad_(True)
        module.weight.data.copy_(torch.from_numpy(weight))
        padded = tx
        if kind == "conv1d" and isinstance(padding, list):
            padded = pad(tx, make_golden.resolve_padding(padding, kernel, dilation))
        with contextlib.redirect_stdout(io.StringIO()):  # steheaviside's backward prints
            y = module(padded)
            gy = rng.integers(-6, 7, y.shape).astype(np.float32) if integers else rng.normal(
                size=y.shape).astype(np.float32)
            y.backward(torch.from_numpy(gy))
        arrays = [x, weight, gy, tx.grad.numpy(), module.weight.grad.numpy()]
        if bias:
            arrays.append(module.bias.grad.numpy())

        qx, qw = (v.detach().numpy() for v in make_golden.quantized(module, kind, torch.from_numpy(x),
                                                                   torch.from_numpy(weight)))
        exact = integers and multiple_of(qx, 1) and multiple_of(qw, 1)
        if exact:
            assert multiple_of(float(pad_value), 2**-8)
        case = {"batch": batch, "width": width, "width_out": y.shape[2], "exact": exact}
        self.writer.add(layer, case, *arrays)


def make_backward(rng, writer):
    backward = Backward(rng, writer)
    geometries, thresholds = itertools.cycle(GEOMETRIES), itertools.cycle(THRESHOLDS)
    label = make_golden.label
    for a, b in PAIRS:
        for n in range(2):
            backward.add(f"qconv_{label(a)}_{label(b)}_{n}", "QConv1d", next(geometries), a, b, next(thresholds),
                         integers=n == 1)
    for n, b in enumerate(NOACT_WEIGHTS):
        backward.add(f"noact_{label(b)}", "QConv1d_NoAct", next(geometries), None, b, integers=n % 2 == 1)
    for n in range(8):
        backward.add(f"conv1d_{n}", "conv1d", next(geometries), integers=n % 4 == 3, bias=n % 2 == 1)
    # Every geometry with signs, exactly; then lanes, words and blocks of channels and columns, just passed.
    for n, geometry in enumerate(GEOMETRIES):
        a, b = (spec("sign"), spec("steheaviside"))[:: 1 if n % 2 else -1]
        backward.add(f"sign_shape_{n}", "QConv1d", geometry, a, b, next(thresholds), integers=True)
    for n, geometry in enumerate([(33, 5, 3, 18, 1, 1, 1, 1, 1, -1.0), (5, 33, 3, 18, 1, 1, 1, 1, 1, 1.0),
                                  (2, 3, 3, 97, 1, 1, 1, 1, 1, 0.5), (3, 2, 9, 66, 2, 2, 4, 1, 1, 0.0),
                                  (9, 9, 17, 24, 1, 1, "same", 1, 9, -1.0), (3, 2, 2, 3, 3, 7, 6, 1, 1, 0.5)]):
        backward.add(f"wide_shape_{n}", "QConv1d", geometry, spec("sign"), spec("sign"), next(thresholds),
                     integers=n % 2 == 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of every random number (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent,
                        help="folder to write to (default: the folder of this script)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # one summation order on every machine
    writer = make_golden.Writer()
    make_backward(np.random.default_rng(args.seed), writer)
    writer.save(args.output, "backward", {"bitorch": importlib.metadata.version("bitorch"),
                                          "torch": torch.__version__, "numpy": np.__version__, "seed": args.seed})


if __name__ == "__main__":
    main()
