"""The command line for training: gradients from files, kernels by direction, checks and timings of each.

usage: cli_training_test.py QCONVC [unittest arguments]
"""

import json
import os
import pathlib
import random
import struct
import subprocess

import cli_support
from cli_support import LAYER, Cli, npy

DIRECTIONS = ("forward", "grad_input", "grad_weight")
INCLUDE = pathlib.Path(__file__).resolve().parent.parent / "runtime" / "include"
# Saves a state, for sign and a threshold need no more.
TRAINED = {**LAYER, "stride": 2, "padding": [1, 2], "gradient_cancellation_threshold": 0.75}


def floats(shape, values):
    return npy(shape, data=struct.pack(f"<{len(values)}f", *values))


def read_floats(path):
    content = path.read_bytes()
    start = 10 + struct.unpack_from("<H", content, 8)[0]
    return list(struct.unpack(f"<{(len(content) - start) // 4}f", content[start:]))


class Plain:
    """QConv1d with sign on both sides, or conv1d, in plain loops. Values are quarters, so that sums are exact."""

    def __init__(self, layer, batch, width, seed):
        self.layer, self.batch, self.width = layer, batch, width
        self.channels, self.outputs, self.taps = layer["in_channels"], layer["out_channels"], layer["kernel_size"]
        self.stride, (self.left, right) = layer.get("stride", 1), layer.get("padding", [0, 0])
        self.width_out = (width + self.left + right - self.taps) // self.stride + 1
        self.binary = layer["layer"] == "QConv1d"
        draw = random.Random(seed)
        self.x = [draw.randint(-8, 8) / 4 for _ in range(batch * self.channels * width)]
        self.w = [draw.randint(-8, 8) / 4 for _ in range(self.outputs * self.channels * self.taps)]
        self.bias = [draw.randint(-8, 8) / 4 for _ in range(self.outputs)]
        self.gy = [draw.randint(-8, 8) / 4 for _ in range(batch * self.outputs * self.width_out)]

    def quantize(self, value):
        return (1 if value >= 0 else -1) if self.binary else value

    def products(self):
        """For every product of the convolution: its place in y, in x (None: padding) and in the weight."""
        for n in range(self.batch):
            for o in range(self.outputs):
                for j in range(self.width_out):
                    for c in range(self.channels):
                        for k in range(self.taps):
                            i = j * self.stride + k - self.left
                            inside = 0 <= i < self.width
                            yield ((n * self.outputs + o) * self.width_out + j,
                                   (n * self.channels + c) * self.width + i if inside else None,
                                   (o * self.channels + c) * self.taps + k)

    def results(self):
        pad = -1 if self.binary else 0
        y = [0 if self.binary else self.bias[o // self.width_out % self.outputs] for o in range(len(self.gy))]
        gx, gw, gb = [0] * len(self.x), [0] * len(self.w), [0] * self.outputs
        for at_y, at_x, at_w in self.products():
            weight = self.quantize(self.w[at_w])
            value = pad if at_x is None else self.quantize(self.x[at_x])
            y[at_y] += value * weight
            gw[at_w] += value * self.gy[at_y]
            if at_x is not None:
                gx[at_x] += weight * self.gy[at_y]
        threshold = self.layer.get("gradient_cancellation_threshold")
        if threshold is not None:
            gx = [g if abs(x) <= threshold else 0 for g, x in zip(gx, self.x)]
        for at, g in enumerate(self.gy):
            gb[at // self.width_out % self.outputs] += g
        return {"y": y, "gx": gx, "gw": gw, "gb": gb}


class Run(Cli):
    def prepare(self, layer, batch=2, width=21, seed=1):
        """Writes the files of a run; returns the plain loops and the arguments of forward."""
        plain = Plain(layer, batch, width, seed)
        shapes = {"x": (batch, plain.channels, width), "w": (plain.outputs, plain.channels, plain.taps),
                  "gy": (batch, plain.outputs, plain.width_out), "b": (plain.outputs,)}
        values = {"x": plain.x, "w": plain.w, "gy": plain.gy, "b": plain.bias}
        for name, shape in shapes.items():
            self.file(name + ".npy", floats(shape, values[name]))
        self.given = ("layer.json", *(name + ".npy" for name in shapes))
        arguments = ["run", "--layer", self.file("layer.json", layer), "--input", self.path("x"), "--weight",
                     self.path("w")]
        return plain, arguments + (["--bias", self.path("b")] if layer.get("bias") else [])

    def path(self, name):
        return self.dir / (name + ".npy")

    def gradients(self, *more):
        return ["--grad-output", self.path("gy"), *(str(part) for part in more)]

    def test_gradients_are_those_of_plain_loops(self):
        conv1d = {**LAYER, "layer": "conv1d", "bias": True, "padding": [0, 1]}
        for layer in (TRAINED, LAYER, conv1d):
            plain, arguments = self.prepare(layer)
            outputs = {"y": "--output", "gx": "--grad-input", "gw": "--grad-weight"}
            if layer is conv1d:
                outputs["gb"] = "--grad-bias"
            for option in [part for name, option in outputs.items() for part in (option, self.path(name))]:
                arguments.append(option)
            done = self.run_tool(*arguments, *self.gradients(), "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            expected = plain.results()
            for name in outputs:
                self.assertEqual(read_floats(self.path(name)), expected[name], (layer["layer"], name))
            listed = json.loads(done.stdout)
            self.assertEqual(listed["files"]["grad_weight"]["shape"], [plain.outputs, plain.channels, plain.taps])
            self.assertEqual(listed["files"]["grad_input"]["shape"], [2, plain.channels, 21])
            for direction in DIRECTIONS:
                self.assertTrue(listed[direction]["kernel"], direction)

    def test_one_gradient_alone(self):
        plain, arguments = self.prepare(TRAINED)
        done = self.run_tool(*arguments, *self.gradients("--grad-input", self.path("gx")))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(read_floats(self.path("gx")), plain.results()["gx"])
        self.assertIn("gx.npy: float32 (2, 8, 21)", done.stdout)
        self.nothing_written(*self.given, "gx.npy")

    def test_empty_batch(self):
        _, arguments = self.prepare(TRAINED, batch=0)
        written = ("--grad-input", self.path("gx"), "--grad-weight", self.path("gw"))
        done = self.run_tool(*arguments, *self.gradients(*written))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(read_floats(self.path("gx")), [])
        self.assertEqual(read_floats(self.path("gw")), [0] * 8 * 8 * 3)

    def test_options_that_do_not_fit(self):
        _, arguments = self.prepare(TRAINED)
        gx, gb = self.path("gx"), self.path("gb")
        self.refuse(arguments, "nothing to write", "--output", "--grad-output")
        self.refuse([*arguments, "--grad-input", gx], "--grad-input", "needs --grad-output")
        self.refuse([*arguments, *self.gradients()], "--grad-output", "--grad-input, --grad-weight or --grad-bias")
        self.refuse([*arguments, *self.gradients("--grad-bias", gb)], "--grad-bias", "'conv'", "no bias")
        self.refuse([*arguments, *self.gradients("--grad-input", gx, "--grad-weight", gx)], "gx.npy", "two outputs")
        self.refuse([*arguments, *self.gradients("--grad-input", gx, "--grad-input-kernel", "nonesuch")], "nonesuch")
        self.nothing_written(*self.given)

    def test_shape_of_grad_output(self):
        plain, arguments = self.prepare(TRAINED)
        arguments += self.gradients("--grad-input", self.path("gx"))
        for shape, words in (((2, 8), ("rank 2", f"width_out {plain.width_out}")),
                             ((2, 7, plain.width_out), ("dimension 1 is 7", "out_channels 8")),
                             ((1, 8, plain.width_out), ("dimension 0 is 1", "batch 2")),
                             ((2, 8, plain.width_out + 1), (f"dimension 2 is {plain.width_out + 1}", "width_out"))):
            self.file("gy.npy", npy(shape))
            self.refuse(arguments, "gy.npy", "--grad-output", *words)
        self.file("gy.npy", npy((2, 8, plain.width_out), descr="<f8", data=bytes(16 * 8 * plain.width_out)))
        self.refuse(arguments, "gy.npy", "'<f8'", "float32")
        self.path("gy").unlink()
        self.refuse(arguments, "gy.npy", "No such file")
        self.nothing_written(*self.given)

    def test_all_outputs_or_none(self):
        _, arguments = self.prepare(TRAINED)
        missing = self.dir / "none" / "gw.npy"
        self.refuse([*arguments, "--output", self.path("y"),
                     *self.gradients("--grad-input", self.path("gx"), "--grad-weight", missing)],
                    "gw.npy", "No such file", code=3)
        self.nothing_written(*self.given)


class LayerFiles(Cli):
    def description(self, layer):
        done = self.run_tool("compile", self.file("l.json", layer), "-o", self.dir / "out", "-t", "avx2", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["layers"][0]["layer"]

    def test_threshold(self):
        self.assertNotIn("|x|", self.description(LAYER))
        self.assertNotIn("|x|", self.description({**LAYER, "gradient_cancellation_threshold": None}))
        self.assertIn("|x|<=0", self.description({**LAYER, "gradient_cancellation_threshold": 0}))
        self.assertIn("|x|<=1.5", self.description({**LAYER, "gradient_cancellation_threshold": 1.5}))

    def test_threshold_that_does_not_fit(self):
        for value, words in (("1", ("\"1\"", "number >= 0, or null")), (-0.5, ("-0.5", "number >= 0, or null")),
                             ([], ("[]", "number >= 0, or null"))):
            layer = self.file("l.json", {**LAYER, "gradient_cancellation_threshold": value})
            self.refuse(["verify", layer], "gradient_cancellation_threshold", *words)
        for kind in ("conv1d", "QConv1d_NoAct"):
            layer = self.file("l.json", {**LAYER, "layer": kind, "gradient_cancellation_threshold": 1})
            self.refuse(["verify", layer], "gradient_cancellation_threshold", "only QConv1d")


class Compile(Cli):
    def compile(self, *more, layer=TRAINED):
        return ["compile", self.file("net.json", layer), "-o", self.dir / "out", "-t", "sse41", "--json", *more]

    def ops(self, *more, layer=TRAINED):
        done = self.run_tool(*self.compile(*more, layer=layer))
        self.assertEqual(done.returncode, 0, done.stderr)
        manifest = json.loads(done.stdout)
        self.assertEqual(sorted(manifest["layers"][0]["targets"]["sse41"]["kernels"]),
                         sorted(kernel["op"] for kernel in manifest["kernels"]))
        return {kernel["op"] for kernel in manifest["kernels"]}

    def test_directions(self):
        self.assertEqual(self.ops(), {"forward"})
        self.assertEqual(self.ops("--directions", "grad-input"), {"grad_input"})
        self.assertEqual(self.ops("--directions", "forward,grad-weight"), {"forward", "grad_weight", "save_state"})
        self.assertEqual(self.ops("--directions", "training"), {*DIRECTIONS, "save_state"})
        # Swishsign's derivative needs the input itself; without a quantizer there is no sign to save.
        swish = {**TRAINED, "input_quantization": "swishsign"}
        self.assertEqual(self.ops("--directions", "training", layer=swish), set(DIRECTIONS))
        no_act = {**LAYER, "layer": "QConv1d_NoAct"}
        self.assertEqual(self.ops("--directions", "training", layer=no_act), set(DIRECTIONS))

    def test_only_a_gpu_needs_a_kernel_for_the_bias(self):
        plain = {"name": "one", "layer": "conv1d", "in_channels": 4, "out_channels": 4, "kernel_size": 1}
        done = self.run_tool(*self.compile("--directions", "grad-weight", "-t", "cuda", layer=plain))
        self.assertEqual(done.returncode, 0, done.stderr)
        kernels = {(kernel["target"], kernel["op"]) for kernel in json.loads(done.stdout)["kernels"]}
        self.assertEqual(kernels, {("sse41", "grad_weight"), ("cuda", "grad_weight"), ("cuda", "grad_bias")})
        self.assertIn("QCONV_OP_GRAD_BIAS", (self.dir / "out" / "net_cuda.h").read_text())

    def test_header_documents_and_registers_every_kernel(self):
        self.assertEqual(self.ops("--directions", "training"), {*DIRECTIONS, "save_state"})
        header = self.dir / "out" / "net_sse41.h"
        text = header.read_text()
        for op in (*DIRECTIONS, "save_state"):
            self.assertIn(f" *   {op}", text)
            self.assertIn(f".op = QCONV_OP_{op.upper()}", text)
        for compiler in (["cc", "-std=c99", "-x", "c"], ["c++", "-std=c++20", "-x", "c++"]):
            subprocess.run([*compiler, "-c", "-o", os.devnull, "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                            "-Wno-unused-function", "-I", INCLUDE, "-include", header, os.devnull], check=True)

    def test_equal_shapes_share_their_kernels(self):
        done = self.run_tool(*self.compile("--directions", "training", layer=[TRAINED, {**TRAINED, "name": "twin"}]))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(json.loads(done.stdout)["kernels"]), 4)

    def test_unknown_direction(self):
        self.refuse(self.compile("--directions", "forward,backward"), "--directions", "backward", "grad-input")
        self.nothing_written("net.json")


class List(Cli):
    def test_kernels_of_one_op(self):
        for op in (*DIRECTIONS, "save_state"):
            done = self.run_tool("list", "kernels", "--op", op.replace("_", "-"), "--json")
            kernels = json.loads(done.stdout)["kernels"]
            self.assertTrue(kernels, op)
            self.assertEqual({kernel["op"] for kernel in kernels}, {op})
        self.refuse(["list", "--op", "backward"], "--op", "backward", "grad-input")
        self.refuse(["list", "targets", "--op", "forward"], "--op", "targets")


class Verify(Cli):
    def results(self, *arguments):
        done = self.run_tool("verify", *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        results = json.loads(done.stdout)["results"]
        self.assertTrue(all(r["pass"] and r["kernel"] and r["checked"] > 0 for r in results))
        return results

    def layers(self):
        quantizers = ("sign", "steheaviside", "approxsign", {"name": "swishsign", "beta": 3},
                      {"name": "inputdorefa", "bits": 2}, "identity")
        layers = [{**TRAINED, "name": f"q{i}", "input_quantization": q} for i, q in enumerate(quantizers)]
        layers.append({**LAYER, "name": "float", "layer": "conv1d", "bias": True})
        return layers

    def test_every_direction(self):
        layers = self.file("l.json", self.layers())
        results = self.results(layers, "--direction", "all", "--every-kernel")
        self.assertEqual({r["direction"] for r in results}, {"forward", "grad-input", "grad-weight"})
        results = self.results(layers, "--direction", "all", "--kernels", "specialised", "-t", "host")
        self.assertEqual(len(results), 3 * len(self.layers()))
        self.assertTrue(all(":" in r["kernel"] for r in results))
        results = self.results(layers, "--direction", "grad-weight", "-t", "sse41")
        self.assertEqual({r["direction"] for r in results}, {"grad-weight"})

    def test_tables_are_sampled(self):
        table = self.file("t.csv", "name,layer,C_in,C_out,K,stride,pad,dilation,groups,W_in\n"
                                   "net,conv,64,64,5,1,2,1,1,400\n")
        results = self.results(table, "--direction", "all", "--threshold", "0.5", "--oracle-macs", "1e5", "-t", "avx2",
                               "--weight-quantization", "approxsign")
        self.assertTrue(all(r["checked"] < r["values"] for r in results))
        self.assertTrue(all("|x|<=0.5" in r["description"] for r in results))

    def test_bad_options(self):
        layers = self.file("l.json", LAYER)
        self.refuse(["verify", layers, "--direction", "backward"], "--direction", "backward", "grad-input")
        for threshold in ("-1", "nan", "inf", "1x"):
            self.refuse(["verify", layers, f"--threshold={threshold}"], "--threshold", "number >= 0, or none")


class Bench(Cli):
    def bench(self, layers, direction, *more):
        done = self.run_tool("bench", self.file("l.json", layers), "--direction", direction, "--min-time", "0.01",
                             "--repeats", "2", *more)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_step(self):
        layers = [TRAINED, {**TRAINED, "name": "swish", "input_quantization": "swishsign"}]
        report = json.loads(self.bench(layers, "step", "--json"))
        self.assertEqual(report["direction"], "step")
        sign, swish = report["rows"]
        width, width_out = 1000, (1000 + 3 - 3) // 2 + 1
        self.assertEqual(sign["macs"], 3 * 8 * 8 * 3 * width_out)
        self.assertEqual(sorted(sign["parts"]), sorted(DIRECTIONS))
        self.assertEqual((sign["saved"], swish["saved"]), ("state", "input"))
        # Two bits an element, in words of 32 positions.
        self.assertEqual(sign["saved_bytes"], 8 * 2 * 4 * -(-width // 32))
        self.assertEqual((sign["input_bytes"], swish["saved_bytes"]), (8 * width * 4, 8 * width * 4))
        for row in (sign, swish):
            self.assertLess(0, row["packing_us"])
            self.assertLess(row["packing_us"], row["median_us"])
            self.assertLess(0, row["percent_of_peak"])
        self.assertLess(0, report["call_overhead_us"])
        text = self.bench(layers, "step")
        for words in ("forward_training, backward with all gradients, set_weights", "pack %", "% of a step",
                      "kept from forward for backward"):
            self.assertIn(words, text)

    def test_one_direction(self):
        for direction in ("grad-input", "grad-weight"):
            report = json.loads(self.bench(TRAINED, direction, "--every-kernel", "--json"))
            row = report["rows"][0]
            self.assertEqual(report["direction"], direction)
            self.assertLess(0, row["outputs_checked"])
            self.assertLessEqual(1, row["compared"])
            text = self.bench(TRAINED, direction, "--kernel", row["kernel"])
            self.assertIn(row["kernel"], text)

    def test_compare_and_threads(self):
        for direction in ("step", "grad-input"):
            report = json.loads(self.bench(TRAINED, direction, "--compare", "generic,specialised", "--json"))
            self.assertLess(0, report["rows"][0]["compared"])
            self.assertIn(":", report["rows"][0]["other_kernel"])
        self.assertEqual(json.loads(self.bench(TRAINED, "step", "--threads", "2", "--json"))["threads"], 2)

    def test_serve(self):
        layers = self.file("l.json", TRAINED)
        done = self.run_tool("bench", layers, "--direction", "step", "--serve",
                             input='{"row": 0, "seconds": 0.01}\n{"row": 9}\n')
        first, second = (json.loads(line) for line in done.stdout.splitlines())
        self.assertLess(0, first["median_us"])
        self.assertEqual(first["row"], 0)
        self.assertIn("row 9", second["error"])

    def test_bad_options(self):
        layers = self.file("l.json", TRAINED)
        self.refuse(["bench", layers, "--direction", "backward"], "--direction", "backward", "step")
        self.refuse(["bench", layers, "--direction", "step", "--every-kernel"], "--every-kernel", "step")
        self.refuse(["bench", layers, "--direction", "step", "--kernel", "x"], "--kernel", "step")


if __name__ == "__main__":
    cli_support.main(__doc__)
