#!/usr/bin/env python3
"""Makes the golden vectors of this folder with the real bitorch: forward* and quantizers* (make_golden_backward.py
makes backward*).

The committed files were made with bitorch 0.4.1, numpy 1.24.2 and torch 1.13.1 (Debian's python3-torch, which calls
itself 1.13.0a0):

    apt-get install python3-torch python3-venv
    /usr/bin/python3 -m venv --system-site-packages golden-venv
    golden-venv/bin/pip install --no-deps bitorch==0.4.1
    golden-venv/bin/pip install pandas==2.0.3 matplotlib==3.7.5 numpy==1.24.2      # bitorch imports both
    golden-venv/bin/python make_golden.py

forward_layers.json is a layer file. forward.json describes a case for each of its layers, in the same order:
    name       the layer's
    batch, width, width_out
    offset     first float of the case in forward.bin, where x, weight, bias (conv1d with bias) and y follow one another
    exact      every product and sum is a small multiple of 1/4, so any order of summation gives the same float
    magnitude  the largest sum of |q(x)| * |q(w)| over one output window: rounding error is relative to it
quantizers_layers.json is a layer file too: QConv1d layers of one channel and tap with identity weights, so that a layer
with weight 1 is its input quantizer. quantizers.json describes a case for each:
    name       the layer's
    offset, count   first float in quantizers.bin, where count values, their quantized values and the surrogate gradient
               (for an incoming gradient of 1) follow one another; a gradient is NaN where bitorch's is
All numbers in the .bin files are float32, little-endian.

The files are functions of --seed alone. Values that weightdorefa would put within MARGIN of a rounding tie are drawn
anew, so that no expected value hangs on the last bit of a tanh; exact ties come from exact inputs only.
"""

import argparse
import contextlib
import importlib.metadata
import io
import itertools
import json
import math
import pathlib

import numpy as np
import torch
from torch.nn.functional import conv1d, pad

from bitorch.layers import QConv1d
from bitorch.layers.qconv1d import QConv1d_NoAct
from bitorch.quantizations import (ApproxSign, Identity, InputDoReFa, ProgressiveSign, Sign, SteHeaviside, SwishSign,
                                   WeightDoReFa)
from bitorch.quantizations.quantization_scheduler import MixLinearScheduling, StepScheduling

MARGIN = 1e-3  # in units of one quantization level
BINARY = ("sign", "approxsign", "swishsign", "steheaviside")


def spec(name, **parameters):
    return {"name": name, **parameters}


def build(quantizer):
    """The bitorch module of a quantizer in the layer-file format."""
    name = quantizer["name"]
    if name == "scheduled":
        kind = {"mix_linear": MixLinearScheduling, "step": StepScheduling}[quantizer["procedure"]]
        module = kind([build(q) for q in quantizer["quantizations"]], steps=1)
        module.factor = quantizer["factor"]
        return module
    if name == "progressive_sign":
        module = ProgressiveSign(use_global_scaling=False, alpha=quantizer.get("alpha"), beta=quantizer.get("beta"))
        module.scale = quantizer.get("scale", 0.0)
        return module.train(quantizer.get("training", False))
    if name in ("inputdorefa", "weightdorefa"):
        return (InputDoReFa if name == "inputdorefa" else WeightDoReFa)(quantizer.get("bits"))
    if name == "swishsign":
        return SwishSign(quantizer.get("beta"))
    return {"identity": Identity, "sign": Sign, "approxsign": ApproxSign, "steheaviside": SteHeaviside}[name]()


def scheduled(procedure, factor, *quantizations):
    return spec("scheduled", procedure=procedure, factor=factor, quantizations=list(quantizations))


def redraw_near_ties(values, bits, rng):
    """Replaces the values that weightdorefa(bits) would round within MARGIN of a tie; exact zeros stay."""
    levels = 2**bits - 1
    while True:
        t = np.tanh(values.astype(np.float64))
        level = (t / (2 * np.abs(t).max()) + 0.5) * levels
        near = (np.abs(level - np.floor(level) - 0.5) < MARGIN) & (values != 0)
        if not near.any():
            return values
        values[near] = rng.normal(size=int(near.sum())).astype(np.float32)


def weightdorefa_bits(quantizer):
    stages = [] if quantizer is None else quantizer.get("quantizations", [quantizer])
    return [q.get("bits", 1) for q in stages if q["name"] == "weightdorefa"]


def edge_values(quantizer):
    """Values where a quantizer changes its mind, and extremes; finite and moderate ones where real values survive."""
    tiny = np.float32(1e-45)
    above_one = np.nextafter(np.float32(1), np.float32(2))
    values = [0.0, -0.0, 1.0, -1.0, above_one, -above_one, tiny, -tiny, 1.1754944e-38, -1.1754944e-38, 0.5, -0.5, 2.0,
              -2.0]
    name = quantizer["name"]
    if name in BINARY or (name == "progressive_sign" and not quantizer.get("training")):
        values += [math.inf, -math.inf, 3e38, -3e38, 1e-30, -1e-30]
    if name == "inputdorefa":
        levels = 2 ** quantizer.get("bits", 1) - 1
        ties = [np.float32((k + 0.5) / levels) for k in range(min(levels, 24))]
        values += ties + [np.nextafter(t, np.float32(0)) for t in ties] + [np.nextafter(t, np.float32(2)) for t in ties]
        values += [math.inf, -math.inf, 3e38]
    return np.array(values, np.float32)


class Writer:
    """Gathers layers, their cases and data; names must differ."""

    def __init__(self):
        self.layers, self.cases, self.chunks, self.count = [], [], [], 0

    def add(self, layer, case, *arrays):
        assert layer["name"] not in {c["name"] for c in self.cases}, layer["name"]
        self.layers.append(layer)
        self.cases.append({"name": layer["name"], **case, "offset": self.count})
        for array in arrays:
            self.chunks.append(np.ascontiguousarray(array, "<f4").ravel())
            self.count += self.chunks[-1].size

    def save(self, folder, stem, versions):
        lines = lambda rows: "[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n]}\n"
        head = json.dumps({"format": 1, "versions": versions})[:-1]
        for name, data in ((stem + "_layers.json", ('{"layers": ' + lines(self.layers)).encode()),
                           (stem + ".json", (head + ', "cases": ' + lines(self.cases)).encode()),
                           (stem + ".bin", np.concatenate(self.chunks).tobytes())):
            part = folder / (name + ".part")
            part.write_bytes(data)
            part.rename(folder / name)
            print(f"{name}: {len(self.cases)} cases, {len(data)} bytes")


def resolve_padding(padding, kernel_size, dilation):
    """[left, right] of a padding in the layer-file format, by PyTorch's rules."""
    if padding == "valid":
        return [0, 0]
    if padding == "same":
        total = dilation * (kernel_size - 1)
        return [total // 2, total - total // 2]
    return list(padding) if isinstance(padding, list) else [padding, padding]


def torch_layer(layer):
    """The bitorch layer (or torch's Conv1d) of one case; `layer` is in the layer-file format."""
    kind, padding = layer["layer"], layer["padding"]
    args = dict(stride=layer["stride"], dilation=layer["dilation"], groups=layer["groups"],
                padding=0 if isinstance(padding, list) else padding)
    sizes = layer["in_channels"], layer["out_channels"], layer["kernel_size"]
    if kind == "conv1d":
        return torch.nn.Conv1d(*sizes, bias=layer["bias"], **args)
    quantizers = {side + "_quantization": build(layer[side + "_quantization"])
                  for side in (("input", "weight") if kind == "QConv1d" else ("weight",))}
    module = (QConv1d if kind == "QConv1d" else QConv1d_NoAct)(*sizes, pad_value=layer["pad_value"] or None,
                                                               **args, **quantizers)
    module._pad_value = float(layer["pad_value"])  # the constructor turns 0 into -1; the layer itself pads with 0
    if isinstance(padding, list):
        module._reversed_padding_repeated_twice = padding  # what the constructor stores for a symmetric padding
    else:
        assert list(module._reversed_padding_repeated_twice) == resolve_padding(padding, sizes[2], layer["dilation"])
    return module


def quantized(module, kind, x, weight):
    """The operands of the convolution, in double, by the layer's own quantizers."""
    if kind == "conv1d":
        return x.double(), weight.double()
    qx = module.activation.activation_function(x) if kind == "QConv1d" else x
    return qx.double(), module._weight_quantize(weight).double()


class Forward:
    def __init__(self, rng, writer):
        self.rng, self.writer = rng, writer

    def add(self, name, kind, geometry, input_q=None, weight_q=None, edges=False, bias=False):
        """Runs one case. geometry: a row of GEOMETRIES."""
        rng = self.rng
        channels, out, kernel, width, batch, stride, padding, dilation, groups, pad_value = geometry
        layer = {"name": name, "layer": kind, "in_channels": channels, "out_channels": out, "kernel_size": kernel,
                 "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        if kind == "conv1d":
            layer["bias"], pad_value = bias, 0.0
        else:
            layer["pad_value"], layer["weight_quantization"] = pad_value, weight_q
            if kind == "QConv1d":
                layer["input_quantization"] = input_q
        module = torch_layer(layer)

        x = (rng.normal(size=(batch, channels, width)) * 0.7).astype(np.float32)
        if edges:
            edge = edge_values(input_q or spec("identity"))
            spots = rng.choice(x.size, size=min(x.size, 2 * edge.size), replace=False)
            x.flat[spots] = np.resize(edge, spots.size)
        for bits in weightdorefa_bits(input_q):
            redraw_near_ties(x, bits, rng)
        weight = rng.normal(size=(out, channels // groups, kernel)).astype(np.float32)
        if edges and weight_q is not None and weight.size > 4:
            weight.flat[rng.choice(weight.size, size=2, replace=False)] = np.array([0.0, -0.0], np.float32)
        for bits in weightdorefa_bits(weight_q):
            redraw_near_ties(weight, bits, rng)

        tx, tw = torch.from_numpy(x), torch.from_numpy(weight)
        module.weight.data.copy_(tw)
        arrays = [x, weight]
        if kind == "conv1d":
            ends = resolve_padding(padding, kernel, dilation)
            if bias:
                arrays.append(rng.normal(size=out).astype(np.float32))
                module.bias.data.copy_(torch.from_numpy(arrays[-1]))
            y = module(pad(tx, ends)) if isinstance(padding, list) else module(tx)
        else:
            ends = resolve_padding(padding, kernel, dilation)
            y = module(tx)

        qx, qw = quantized(module, kind, tx, tw)
        px = pad(qx, ends, value=float(pad_value))
        convolve = dict(stride=stride, dilation=dilation, groups=groups)
        magnitude = conv1d(px.abs(), qw.abs(), **convolve).max().item()
        precise = conv1d(px, qw, **convolve)
        if bias:
            magnitude += np.abs(arrays[-1]).max().item()
            precise = precise + torch.from_numpy(arrays[-1]).double()[None, :, None]
        exact = all(bool(torch.all(v * 4 == torch.round(v * 4))) for v in (px, qw)) and magnitude < 2**18
        limit = 0.0 if exact else (channels // groups * kernel + 8) * 2.0**-23 * magnitude
        error = (y.double() - precise).abs().max().item()
        assert error <= limit, (name, error, limit)

        case = {"batch": batch, "width": width, "width_out": y.shape[2], "exact": exact, "magnitude": magnitude}
        self.writer.add(layer, case, *arrays, y.detach().numpy())


# channels, out, kernel, width, batch, stride, padding, dilation, groups, pad_value
GEOMETRIES = [
    (8, 12, 3, 20, 2, 1, 1, 1, 1, -1.0),
    (33, 5, 5, 17, 1, 1, "same", 2, 1, 0.0),
    (16, 16, 4, 19, 2, 2, [2, 1], 1, 1, 1.0),
    (6, 9, 2, 16, 3, 1, "same", 3, 3, 0.5),
    (65, 7, 3, 11, 1, 1, "valid", 2, 1, -1.0),
    (20, 20, 9, 23, 1, 1, 4, 1, 20, -0.25),
    (1, 3, 7, 30, 2, 3, 3, 1, 1, 0.0),
    (64, 8, 1, 13, 2, 1, 0, 1, 1, -1.0),
    (12, 8, 3, 26, 1, 5, 2, 1, 4, 1.0),
    (40, 16, 3, 14, 1, 1, [1, 0], 1, 1, -0.25),
    (7, 11, 8, 15, 1, 1, "same", 1, 1, 0.5),
    (24, 6, 3, 9, 2, 2, 2, 2, 2, 0.0),
    (3, 4, 16, 40, 1, 4, [15, 0], 1, 1, -1.0),
    (31, 6, 2, 8, 1, 1, [0, 3], 4, 1, 1.0),
    (32, 32, 3, 18, 1, 2, "valid", 1, 32, -1.0),
    (5, 1, 3, 5, 4, 1, 1, 1, 1, -0.25),
    (17, 13, 5, 5, 1, 1, 0, 1, 1, 0.5),
    (10, 15, 6, 21, 1, 3, [4, 4], 1, 5, 0.0),
]

QCONV_PAIRS = (
    [(spec("sign"), spec("sign"))]
    + [(spec(a), spec("sign")) for a in BINARY[1:]] + [(spec("sign"), spec(b)) for b in BINARY[1:]]
    + [(spec("steheaviside"), spec("steheaviside")), (spec("swishsign", beta=3.0), spec("approxsign"))]
    + [(spec("progressive_sign", scale=0.4), spec("sign")), (spec("sign"), spec("progressive_sign", scale=0.4))]
    + [(spec("inputdorefa", bits=b), spec("sign")) for b in (1, 2, 4, 8)]
    + [(spec("inputdorefa", bits=b), spec("weightdorefa", bits=b)) for b in (1, 2, 4, 8)]
    + [(spec("sign"), spec("weightdorefa", bits=b)) for b in (1, 2, 4, 8)]
    + [(spec("inputdorefa", bits=a), spec("weightdorefa", bits=b)) for a, b in ((2, 1), (1, 2), (8, 2), (4, 8), (3, 5))]
    + [(spec("inputdorefa", bits=2), spec("steheaviside")), (spec("steheaviside"), spec("weightdorefa", bits=2))]
    + [(spec("sign"), spec("inputdorefa", bits=2)), (spec("inputdorefa", bits=4), spec("inputdorefa", bits=8))]
    + [(spec("weightdorefa", bits=2), spec("sign")), (spec("weightdorefa", bits=8), spec("weightdorefa", bits=4))]
    + [(spec("identity"), spec(b)) for b in ("sign", "steheaviside", "identity")]
    + [(spec("identity"), spec("weightdorefa", bits=2)), (spec("sign"), spec("identity"))]
    + [(spec("progressive_sign", scale=s, training=True), spec("sign")) for s in (0.0, 0.1, 0.25, 0.5, 1.0)]
    + [(spec("sign"), spec("progressive_sign", scale=s, training=True)) for s in (0.1, 0.5)]
    + [(spec("progressive_sign", scale=0.75, alpha=8, beta=10, training=True), spec("sign")),
       (spec("progressive_sign", scale=0.3, alpha=2, beta=5, training=True),
        spec("progressive_sign", scale=0.3, alpha=2, beta=5, training=True))]
)

NOACT_WEIGHTS = ([spec(b) for b in BINARY] + [spec("weightdorefa", bits=b) for b in (1, 2, 4, 8)]
                 + [spec("identity"), spec("inputdorefa", bits=2), spec("progressive_sign", scale=0.2, training=True),
                    spec("progressive_sign", scale=0.2)])

STEPS = (spec("identity"), spec("inputdorefa", bits=4), spec("sign"))

SCHEDULED_PAIRS = [
    (scheduled("mix_linear", 0.25, spec("identity"), spec("sign")), spec("sign")),
    (scheduled("mix_linear", 1.0 / 3.0, spec("identity"), spec("sign")), spec("sign")),
    (spec("sign"), scheduled("mix_linear", 0.75, spec("identity"), spec("sign"))),
    (scheduled("mix_linear", 0.5, spec("inputdorefa", bits=8), spec("inputdorefa", bits=2)), spec("sign")),
    (spec("sign"), scheduled("mix_linear", 0.125, spec("weightdorefa", bits=8), spec("weightdorefa", bits=2))),
    (scheduled("mix_linear", 0.9, spec("progressive_sign", scale=0.2, training=True), spec("steheaviside")),
     scheduled("mix_linear", 0.6, spec("weightdorefa", bits=4), spec("sign"))),
    (scheduled("mix_linear", 0.7, *STEPS), spec("sign")),
    (scheduled("mix_linear", 1.0, *STEPS), spec("sign")),
    (scheduled("step", 0.0, *STEPS), spec("sign")),
    (scheduled("step", 0.5, *STEPS), spec("sign")),
    (scheduled("step", 1.0, *STEPS), spec("sign")),
]

# Rows with a purpose of their own, run with the quantizers named in make_forward.
SINGLE_COLUMN = [(c, 3, 3, 3, 1, 1, 0, 1, 1, -1.0) for c in (1, 2, 4, 31, 32, 63, 64, 96)]
WIDE = [(256, 6, 3, 12, 1, 1, 2, 2, 1, -1.0), (130, 9, 1, 37, 2, 1, 0, 1, 1, 0.0), (16, 33, 9, 33, 1, 2, 4, 1, 1, 0.0),
        (48, 17, 5, 97, 1, 1, "same", 1, 1, -1.0), (4, 4, 3, 300, 1, 1, [0, 2], 1, 1, -1.0),
        (3, 2, 2, 3, 3, 7, 6, 1, 1, 0.5), (9, 9, 31, 32, 1, 1, "same", 1, 9, -1.0), (8, 24, 3, 16, 2, 1, 1, 1, 8, 1.0)]


def label(quantizer):
    if quantizer["name"] == "scheduled":
        return f"{quantizer['procedure']}{quantizer['factor']:.3g}_" + "_".join(map(label, quantizer["quantizations"]))
    text = quantizer["name"].replace("_sign", "")
    for key in ("bits", "alpha", "beta", "scale"):
        if key in quantizer:
            text += f"{'' if key == 'bits' else '_' + key}{quantizer[key]:g}"
    return text + ("_training" if quantizer.get("training") else "")


def make_forward(rng, writer):
    forward = Forward(rng, writer)
    geometries = itertools.cycle(GEOMETRIES)
    for a, b in QCONV_PAIRS:
        for n in range(2):
            forward.add(f"qconv_{label(a)}_{label(b)}_{n}", "QConv1d", next(geometries), a, b, edges=n == 1)
    for b in NOACT_WEIGHTS:
        for n in range(2):
            forward.add(f"noact_{label(b)}_{n}", "QConv1d_NoAct", next(geometries), None, b, edges=n == 1)
    for n in range(10):
        forward.add(f"conv1d_{n}", "conv1d", next(geometries), edges=n % 3 == 2, bias=n % 2 == 1)
    for a, b in SCHEDULED_PAIRS:
        forward.add(f"qconv_{label(a)}_{label(b)}", "QConv1d", next(geometries), a, b)
    pairs = [(spec("sign"), spec("sign")), (spec("inputdorefa", bits=2), spec("sign")),
             (spec("inputdorefa", bits=8), spec("weightdorefa", bits=8)), (spec("identity"), spec("sign"))]
    for n, (geometry, (a, b)) in enumerate(zip(SINGLE_COLUMN + WIDE + WIDE, itertools.cycle(pairs))):
        if n >= len(SINGLE_COLUMN) + len(WIDE):
            a, b = pairs[(n + 1) % len(pairs)]
        forward.add(f"shape_{n}_{label(a)}_{label(b)}", "QConv1d", geometry, a, b)
    for n, geometry in enumerate(GEOMETRIES):
        forward.add(f"sign_shape_{n}", "QConv1d", geometry, spec("sign"), spec("sign"), edges=True)


def make_quantizers(rng, writer):
    singles = ([spec(b) for b in BINARY] + [spec("identity"), spec("swishsign", beta=3.0)]
               + [spec("inputdorefa", bits=b) for b in range(1, 9)]
               + [spec("weightdorefa", bits=b) for b in range(1, 9)]
               + [spec("progressive_sign", scale=s, training=True) for s in (0.0, 0.1, 0.25, 0.5, 1.0)]
               + [spec("progressive_sign", scale=0.75, alpha=8, beta=10, training=True),
                  spec("progressive_sign", scale=0.3)])
    mixes = [a for a, _ in SCHEDULED_PAIRS if a["name"] == "scheduled"]
    mixes.append(scheduled("mix_linear", 0.25, spec("approxsign"), spec("swishsign")))
    for quantizer in singles + mixes:
        values = np.concatenate([edge_values(quantizer), (rng.normal(size=96) * 0.8).astype(np.float32),
                                 np.linspace(-1.5, 1.5, 49, dtype=np.float32)])
        for bits in weightdorefa_bits(quantizer):
            redraw_near_ties(values, bits, rng)
        x = torch.from_numpy(values.copy()).requires_grad_(True)
        q = build(quantizer)(x)
        with contextlib.redirect_stdout(io.StringIO()):  # steheaviside's backward prints
            q.backward(torch.ones_like(q))
        layer = {"name": label(quantizer), "layer": "QConv1d", "in_channels": 1, "out_channels": 1, "kernel_size": 1,
                 "input_quantization": quantizer, "weight_quantization": "identity"}
        writer.add(layer, {"count": values.size}, values, q.detach().numpy(), x.grad.numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of every random number (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent,
                        help="folder to write to (default: the folder of this script)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # one summation order on every machine
    versions = {"bitorch": importlib.metadata.version("bitorch"), "torch": torch.__version__, "numpy": np.__version__,
                "seed": args.seed}
    for stem, make in (("forward", make_forward), ("quantizers", make_quantizers)):
        writer = Writer()
        make(np.random.default_rng(args.seed), writer)
        writer.save(args.output, stem, versions)


if __name__ == "__main__":
    main()
