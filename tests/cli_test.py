"""The command line with bad input: every mistake ends in one clear message, a non-zero exit, and nothing half written.

usage: cli_test.py QCONVC [unittest arguments]
"""

import json
import os
import pathlib
import resource
import signal
import struct
import subprocess
import time

import cli_support
from cli_support import LAYER, Cli, npy


class Usage(Cli):
    def test_help_of_every_verb_has_examples(self):
        for verb in ("compile", "list", "run", "verify", "bench", "inspect"):
            done = self.run_tool(verb, "--help")
            self.assertEqual(done.returncode, 0)
            self.assertIn("Example", done.stdout, verb)

    def test_usage_errors(self):
        self.refuse([], "subcommand")
        self.refuse(["compiel"], "unknown verb 'compiel'", "did you mean 'compile'")
        self.refuse(["compile", "x.json", "-o", "out"], "--target")
        self.refuse(["compile", "x.json", "-o", "out", "-t", "avx2", "--jobs", "0"], "--jobs")
        self.refuse(["list", "kernel"], "kernel")

    def test_unknown_target_names_the_nearest(self):
        layers = self.file("l.json", LAYER)
        out = self.dir / "out"
        self.refuse(["compile", layers, "-o", out, "-t", "avx51"], "'avx51'", "did you mean 'avx512'", "avx512_zen4")
        self.nothing_written("l.json")

    def test_list_is_json(self):
        done = self.run_tool("list", "--json")
        listed = json.loads(done.stdout)
        self.assertEqual([t["name"] for t in listed["targets"]],
                         ["sse41", "avx2", "avx512", "avx512_zen4", "arm32", "arm64", "arm64_dotprod", "cuda",
                          "opencl"])
        for target in listed["targets"]:
            self.assertEqual(target["supported"], not target["missing"])
        self.assertEqual(len(listed["quantizers"]), 8)
        self.assertTrue(listed["kernels"])


class LayerFiles(Cli):
    def bad(self, content, *words):
        path = self.file("l.json", content)
        self.refuse(["compile", path, "-o", self.dir / "out", "-t", "sse41"], "l.json", *words)
        self.nothing_written("l.json")

    def with_keys(self, **keys):
        return {**LAYER, **keys}

    def without(self, key):
        return {k: v for k, v in LAYER.items() if k != key}

    def test_missing_file(self):
        self.refuse(["compile", self.dir / "no.json", "-o", self.dir / "out", "-t", "sse41"], "no.json", "No such file")
        self.refuse(["compile", self.dir, "-o", self.dir / "out", "-t", "sse41"], "is a folder")
        self.nothing_written()

    def test_syntax_names_line_and_column(self):
        self.bad('{\n  "name": "a",\n  "layer" "QConv1d"\n}', ":3:", "not JSON")
        self.bad("", "not JSON")
        self.bad('{"name": "a"', "not JSON")
        self.bad('{"gradient_cancellation_threshold": NaN}', "not JSON")
        self.bad('{"name": "a", "name": "b"}', "'name'", "twice")
        self.bad(b'{"name": "\xff\xfe"}', "not JSON")
        self.bad("[" * 100000, "more than 32 arrays and objects")

    def test_structure(self):
        self.bad([], "holds no layer")
        self.bad({"layers": []}, "holds no layer")
        self.bad({"layers": 3}, "'layers' is 3", "list")
        self.bad({"layers": [LAYER], "extra": 1}, "unknown key 'extra'")
        self.bad([LAYER, 5], "layer 1", "object")
        self.bad([LAYER, LAYER], "layers 0 and 1", "'conv'")
        self.bad("3", "object")

    def test_unknown_key_suggests_the_nearest(self):
        self.bad(self.with_keys(kernal_size=3), "unknown key 'kernal_size'", "did you mean 'kernel_size'")
        self.bad(self.with_keys(input_quantization={"name": "inputdorefa", "bit": 2}), "'bit'", "did you mean 'bits'")

    def test_missing_and_mistyped(self):
        self.bad(self.without("in_channels"), "layer 0 'conv'", "'in_channels' is missing")
        self.bad(self.without("layer"), "'layer' is missing")
        self.bad(self.with_keys(layer="QConv2d"), "'QConv2d'", "did you mean 'QConv1d'")
        self.bad(self.with_keys(kernel_size="3"), "'kernel_size' is \"3\"", "integer")
        self.bad(self.with_keys(kernel_size=2.5), "'kernel_size' is 2.5", "integer")
        self.bad(self.with_keys(stride=None), "'stride' is null")
        self.bad(self.with_keys(bias=1), "'bias' is 1", "true or false")
        self.bad(self.with_keys(name=7), "'name' is 7", "string")
        self.bad(self.with_keys(pad_value="x"), "'pad_value'", "number")
        self.bad(self.with_keys(pad_value=1e300), "'pad_value'", "finite")
        self.bad(self.with_keys(in_channels=2**64), "in_channels")

    def test_sizes(self):
        for key in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"):
            for value in (0, -1):
                self.bad(self.with_keys(**{key: value}), key, str(value))
        self.bad(self.with_keys(in_channels=2**40), "in_channels")
        self.bad(self.with_keys(kernel_size=2**62), "kernel_size")
        self.bad(self.with_keys(padding=-1), "-1")
        self.bad(self.with_keys(groups=3), "groups", "3")
        self.bad(self.with_keys(width=2, kernel_size=5), "'width' is 2", "5 positions")
        self.bad(self.with_keys(width=0), "'width' is 0")

    def test_padding(self):
        self.bad(self.with_keys(padding="sam"), "'padding' is \"sam\"", "same")
        self.bad(self.with_keys(padding="same", stride=2), "stride", "2")
        self.bad(self.with_keys(padding=[1]), "'padding'", "[left, right]")
        self.bad(self.with_keys(padding=[1, "2"]), "padding[1]", "integer")

    def test_quantizers(self):
        self.bad(self.with_keys(input_quantization="sing"), "input_quantization", "'sing'", "did you mean 'sign'")
        for bits in (0, 9, -3):
            self.bad(self.with_keys(input_quantization={"name": "inputdorefa", "bits": bits}), str(bits), "1 to 8")
        self.bad(self.with_keys(weight_quantization={"name": "sign", "bits": 1}), "'bits'", "sign")
        self.bad(self.with_keys(weight_quantization={"bits": 1}), "'name' is missing")
        self.bad(self.with_keys(weight_quantization=3), "weight_quantization", "object")
        mixed = {"name": "scheduled", "procedure": "mix_linear", "quantizations": ["identity", "sign"], "factor": 2}
        self.bad(self.with_keys(weight_quantization=mixed), "'factor' is 2")
        self.bad(self.with_keys(weight_quantization={**mixed, "procedure": "mixed"}), "'procedure'")
        self.bad(self.with_keys(weight_quantization={**mixed, "quantizations": []}), "'quantizations'")
        self.bad(self.with_keys(weight_quantization={**mixed, "factor": 1, "quantizations": ["id"]}), "quantizations[0]", "'id'")

    def test_what_does_not_apply(self):
        self.bad(self.with_keys(bias=True), "'bias' is true", "QConv1d")
        self.bad(self.with_keys(layer="QConv1d_NoAct", input_quantization="sign"), "input_quantization")
        self.bad(self.with_keys(layer="conv1d", weight_quantization="sign"), "weight_quantization")
        self.bad(self.with_keys(layer="conv1d", pad_value=1), "pad_value")
        self.bad(self.with_keys(gradient_cancellation_threshold="1"), "gradient_cancellation_threshold")
        self.bad(self.with_keys(gradient_cancellation_threshold=-1), "gradient_cancellation_threshold")
        self.bad('{"name":"a","layer":"QConv1d","in_channels":1,"out_channels":1,"kernel_size":1,'
                 '"gradient_cancellation_threshold":1e999}', "1e999")

    def test_ten_thousand_layers(self):
        layers = [{**LAYER, "name": f"conv{i}"} for i in range(10000)]
        self.bad(layers[:9999] + [{**LAYER, "kernel_size": 0}], "layer 9999", "kernel_size")
        path = self.file("l.json", layers)
        done = self.run_tool("compile", path, "-o", self.dir / "out", "-t", "avx2", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        manifest = json.loads(done.stdout)
        self.assertEqual(len(manifest["layers"]), 10000)
        self.assertEqual(len(manifest["kernels"]), 1, "equal shapes share one kernel")


class Compile(Cli):
    def setUp(self):
        super().setUp()
        # Several shapes, so that there is time to be interrupted.
        self.layers = self.file("net.json", [{**LAYER, "name": f"conv{k}", "kernel_size": k} for k in range(1, 9)])

    def compile(self, out, **options):
        return ["compile", self.layers, "-o", out, "-t", "sse41", "-t", "avx2"]

    def test_writes_libraries_headers_and_manifest(self):
        out = self.dir / "a" / "b"
        done = self.run_tool("compile", self.layers, "-o", out, "-t", "sse41", "--name", "my_net")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(p.name for p in out.iterdir()),
                         ["libmy_net_sse41.a", "libqconv_halide_runtime_x86-64-linux.a", "manifest.json", "my_net_sse41.h"])
        manifest = json.loads((out / "manifest.json").read_text())
        self.assertEqual(len(manifest["kernels"]), 8)
        for entry in manifest["files"]:
            self.assertEqual(entry["bytes"], (out / entry["name"]).stat().st_size)
        header = str(out / "my_net_sse41.h")
        include = pathlib.Path(__file__).resolve().parent.parent / "runtime" / "include"
        for compiler in (["cc", "-std=c99"], ["c++", "-std=c++20", "-x", "c++"]):
            subprocess.run([*compiler, "-c", "-o", os.devnull, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-unused-function", "-I", include,
                            "-include", header, "-x", compiler[-1] if "-x" in compiler else "c", os.devnull], check=True)

    def test_bad_name(self):
        self.refuse([*self.compile(self.dir / "out"), "--name", "a b"], "--name 'a b'", "a_b")
        self.nothing_written("net.json")

    def test_unwritable_folder(self):
        self.refuse(self.compile("/proc/qconv"), "/proc/qconv", code=3)
        self.refuse(self.compile(""), "empty")
        self.refuse(self.compile(self.layers), "net.json", code=3)
        self.refuse(self.compile(self.layers + "/deeper"), "deeper", code=3)
        if os.geteuid() != 0:
            locked = self.dir / "locked"
            locked.mkdir(mode=0o500)
            self.refuse(self.compile(locked), "locked", "Permission denied", code=3)
            locked.rmdir()
        self.nothing_written("net.json")

    def test_no_room(self):
        out = self.dir / "out"
        for limit in (100, 12000):
            def limited(limit=limit):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            self.refuse(self.compile(out), code=3, preexec_fn=limited)
            self.nothing_written("net.json")

    def test_interrupt(self):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            out = self.dir / "out"
            process = subprocess.Popen([cli_support.QCONVC, *map(str, self.compile(out))], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
            deadline = time.monotonic() + 60
            while not list(out.glob(".qconvc-*/*.log")) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal_number)
            _, errors = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130, errors)
            self.assertIn("interrupted", errors.splitlines()[-1])
            self.nothing_written("net.json")

    def test_a_failed_run_leaves_earlier_output_alone(self):
        out = self.dir / "out"
        out.mkdir()
        (out / "libnet_avx2.a").write_text("earlier")
        self.refuse([*self.compile(out), "-t", "avx3"], "avx3")
        self.assertEqual([p.name for p in out.iterdir()], ["libnet_avx2.a"])
        self.assertEqual((out / "libnet_avx2.a").read_text(), "earlier")


class Run(Cli):
    def setUp(self):
        super().setUp()
        self.layer = self.file("layer.json", LAYER)
        self.x = self.file("x.npy", npy((2, 8, 20)))
        self.w = self.file("w.npy", npy((8, 8, 3)))
        self.inputs = ("layer.json", "x.npy", "w.npy", "bad.npy")

    def run_layer(self, layer=None, x=None, w=None, *more):
        return ["run", "--layer", layer or self.layer, "--input", x or self.x, "--weight", w or self.w, "--output",
                self.dir / "y.npy", *more]

    def bad_input(self, content, *words):
        path = self.file("bad.npy", content)
        self.refuse(self.run_layer(x=path), "bad.npy", *words)
        self.nothing_written(*self.inputs)

    def test_runs(self):
        done = self.run_tool(*self.run_layer(), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["files"]["y"]["shape"], [2, 8, 18])
        y = (self.dir / "y.npy").read_bytes()
        # Zeros have sign +1 on both sides: every output is the window's size.
        self.assertEqual(y[:6], b"\x93NUMPY")
        self.assertEqual(struct.unpack(f"<{2 * 8 * 18}f", y[-4 * 2 * 8 * 18:]), (24.0,) * (2 * 8 * 18))

    def test_npy_formats(self):
        good = npy((2, 8, 20))
        self.bad_input(b"", "not a .npy file")
        self.bad_input(b"PK\x03\x04" + bytes(100), "not a .npy file")
        self.bad_input(good[:7], "not a .npy file")
        self.bad_input(good[:40], "header")
        self.bad_input(good[:-1], "truncated", "1280 bytes", "1279")
        self.bad_input(good + b"x", "too long")
        self.bad_input(npy((2, 8, 20), version=9), "version 9")
        self.bad_input(npy((2, 8, 20), descr="<f8", data=bytes(2560)), "'<f8'", "float32")
        self.bad_input(npy((2, 8, 20), descr=">f4"), "'>f4'", "little-endian")
        self.bad_input(npy((2, 8, 20), descr="|O"), "'|O'")
        self.bad_input(npy((2, 8, 20), order=True), "Fortran")
        self.bad_input(npy((2**40, 2**40, 2**40), data=b""), "larger than any memory")
        self.bad_input(npy((2**20, 8, 2**20), data=b""), "truncated")
        self.bad_input(good.replace(b"'shape'", b"'shapo'"), "header")
        self.bad_input(good.replace(b"(2, 8, 20)", b"(2, -8, 2)"), "header")

    def test_shapes(self):
        self.bad_input(npy((8, 20)), "rank 2", "[batch, in_channels 8, width]")
        self.bad_input(npy((2, 7, 20)), "dimension 1 is 7", "in_channels 8")
        self.bad_input(npy((2, 8, 2)), "width", "2")
        weight = self.file("bad.npy", npy((8, 8, 4)))
        self.refuse(self.run_layer(w=weight), "dimension 2 is 4", "kernel_size 3")
        self.refuse(self.run_layer(w=self.dir / "no.npy"), "no.npy", "No such file")
        self.refuse(self.run_layer(w=self.dir), "not an ordinary file")
        self.nothing_written(*self.inputs)

    def test_bias(self):
        self.refuse([*self.run_layer(), "--bias", self.w], "--bias")
        layer = self.file("layer.json", {**LAYER, "layer": "conv1d", "bias": True})
        self.refuse(self.run_layer(layer=layer), "--bias")

    def test_choices(self):
        two = self.file("layer.json", [LAYER, {**LAYER, "name": "other"}])
        self.refuse(self.run_layer(layer=two), "2 layers", "--name")
        self.refuse([*self.run_layer(layer=two), "--name", "othr"], "'othr'", "did you mean 'other'")
        self.refuse([*self.run_layer(layer=two), "--name", "conv", "--kernel", "nonesuch"], "nonesuch")
        self.refuse([*self.run_layer(layer=two), "--name", "conv", "--target", "arm"], "'arm'")

    def test_unwritable_output(self):
        arguments = self.run_layer()
        for output, words in (("/proc/y.npy", "/proc/y.npy"), (str(self.dir / "none" / "y.npy"), "No such file")):
            arguments[arguments.index("--output") + 1] = output
            self.refuse(arguments, words, code=3)
        self.nothing_written(*self.inputs)


class Verify(Cli):
    def test_passes_and_says_so(self):
        layers = self.file("l.json", [LAYER, {**LAYER, "name": "strided", "stride": 2, "padding": [2, 1]}])
        done = self.run_tool("verify", layers)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(" passed, 0 failed", done.stdout)
        done = self.run_tool("verify", layers, "--json", "--kernels", "specialised", "-t", "host")
        self.assertEqual(done.returncode, 0, done.stderr)
        results = json.loads(done.stdout)["results"]
        self.assertTrue(all(r["pass"] and r["kernel"] and r["path"] for r in results))

    def test_bad_input(self):
        table = self.file("t.csv", "name,layer,C_in\nnet,conv,8\n")
        self.refuse(["verify", table], "t.csv", "C_out")
        layers = self.file("l.json", {**LAYER, "kernel_size": 9})
        self.refuse(["verify", layers, "--width", "3", "-t", "sse41"], "--width 3", "'conv'", "at least 9")
        self.refuse(["verify", table, "--layer", "Conv"], "'Conv'")
        self.refuse(["verify", table, "--input-quantization", "inputdorefa(9)"], "inputdorefa(9)", "1 to 8")


class BenchMatrix(Cli):
    BRIEF = ("--min-time", "0.001", "--repeats", "1")

    def setUp(self):
        super().setUp()
        mixed = {"name": "scheduled", "procedure": "mix_linear", "quantizations": ["identity", "sign"], "factor": 0.5}
        # Its own quantizers do not count.
        self.layer = self.file("l.json", {**LAYER, "width": 40, "input_quantization": mixed})

    def bench(self, *more):
        done = self.run_tool("bench", self.layer, "--matrix", *self.BRIEF, *more)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_every_pair_in_every_direction(self):
        report = json.loads(self.bench("--json"))
        self.assertTrue(report["complete"])
        cells = {(c["direction"], c["input_quantization"], c["weight_quantization"]): c for c in report["cells"]}
        self.assertEqual(len(cells), len(report["cells"]))
        self.assertEqual(len(cells), 4 * 9 * 9)
        macs = 8 * 8 * 3 * (40 - 2)
        for (direction, *_), cell in cells.items():
            self.assertEqual(cell["row"], "conv")
            self.assertEqual(cell["macs"], macs * (3 if direction == "step" else 1))
            for key in ("outputs_checked", "median_us", "compared", "compared_least"):
                self.assertLess(0, cell[key], (cell["name"], key))
        self.assertEqual(cells["step", "sign", "sign"]["compared"], 1)
        # progressive_sign is sign in inference alone.
        for direction, sign in (("forward", True), ("step", False)):
            cell = cells[direction, "progressive_sign", "progressive_sign"]
            self.assertEqual(cell["binary"], sign)
            self.assertEqual(cell["path"].startswith("b1b1"), sign)
        self.assertTrue(cells["step", "approxsign", "weightdorefa(1)"]["binary"])
        self.assertFalse(cells["forward", "inputdorefa(1)", "sign"]["binary"])

    def test_tables_and_summary(self):
        text = self.bench("--direction", "grad-input", "--threads", "2")
        lines = [line.split() for line in text.splitlines()]
        self.assertEqual([line[0] for line in lines if len(line) == 19],
                         ["sign", "approxsign", "swishsign", "steheaviside", "inputdorefa(1)", "inputdorefa(2)",
                          "inputdorefa(8)", "identity", "progressive_sign"])
        for words in ("conv, grad-input: least us", "2 threads", "81 of 81 pairs timed", "20 binary pairs", "least of peak"):
            self.assertIn(words, text)
        self.assertNotIn("forward", text)

    def test_bad_input(self):
        for other in (["--input-quantization", "sign"], ["--weight-quantization", "sign"], ["--bits", "2"], ["--serve"],
                      ["--layer", "QConv1d"], ["--every-kernel"], ["--compare", "generic,specialised"],
                      ["--kernels", "generic"], ["--kernel", "x"]):
            self.refuse(["bench", self.layer, "--matrix", *other], "--matrix", other[0])
        self.refuse(["bench", self.layer, "--matrix", "--direction", "back"], "--direction", "back")
        self.refuse(["bench", self.layer, "--matrix", "--filter", "none such"], "--filter 'none such'")
        layers = self.file("l.json", [LAYER, {**LAYER, "name": "real", "layer": "QConv1d_NoAct"}])
        self.refuse(["bench", layers, "--matrix"], "--matrix", "'real'", "QConv1d_NoAct", "it must be QConv1d")

    def test_interrupt(self):
        process = subprocess.Popen([cli_support.QCONVC, "bench", self.layer, "--matrix", "--min-time", "1"],
                                   stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.assertIn("conv, forward", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        text = process.stdout.read()
        self.assertEqual(process.wait(timeout=60), 130, text)
        self.assertIn("of 324 pairs timed, then interrupted", text)


if __name__ == "__main__":
    cli_support.main(__doc__)
