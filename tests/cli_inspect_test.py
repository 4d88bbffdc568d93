"""qconvc inspect: its figures against what a compiler's manifest and LLVM's own llvm-mca say, and its errors.

usage: cli_inspect_test.py QCONVC [unittest arguments]
"""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import cli_support
from cli_support import LAYER, Cli

LAYERS = [
    {**LAYER, "name": "binary", "in_channels": 64, "out_channels": 64, "padding": "same"},
    {**LAYER, "name": "integer", "in_channels": 64, "input_quantization": {"name": "inputdorefa", "bits": 8}},
    {**LAYER, "name": "real", "layer": "QConv1d_NoAct", "in_channels": 64, "out_channels": 64},
    {**LAYER, "name": "plain", "layer": "conv1d", "in_channels": 64, "out_channels": 64},
]
MCA = shutil.which("llvm-mca-22")


def module():
    return pathlib.Path(cli_support.QCONVC).parent.parent / "lib/qconv/libqconv_inspect.so"


class WithoutLlvm(Cli):
    def test_says_what_is_missing(self):
        # A qconvc that lies elsewhere has no module beside it.
        (self.dir / "bin").mkdir()
        copy = shutil.copy(cli_support.QCONVC, self.dir / "bin/qconvc")
        library = self.file("x.a", b"!<arch>\n")
        done = subprocess.run([copy, "inspect", library], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("llvm-22-dev", done.stderr)
        self.assertIn("libqconv_inspect.so", done.stderr)


class Inspect(Cli):
    @classmethod
    def setUpClass(cls):
        if not module().exists():
            raise unittest.SkipTest("this qconvc was built without LLVM")
        cls.compiled = tempfile.TemporaryDirectory(prefix="qconv-inspect-")
        cls.addClassCleanup(cls.compiled.cleanup)
        cls.folder = pathlib.Path(cls.compiled.name)
        layers = cls.folder / "net.json"
        layers.write_text(json.dumps(LAYERS))
        done = subprocess.run(
            [cli_support.QCONVC, "compile", layers, "-t", "avx512_zen4", "-t", "sse41", "-o", cls.folder, "--json"],
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        cls.manifest = json.loads(done.stdout)
        cls.library = cls.folder / "libnet_sse41.a"

    def inspect(self, *arguments):
        done = self.run_tool("inspect", *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["objects"]

    def test_every_path_of_x86(self):
        for target in ("avx512_zen4", "sse41"):
            found = {one["kernel"]: one for one in self.inspect(self.folder / f"libnet_{target}.a")}
            kernels = [kernel for kernel in self.manifest["kernels"] if kernel["target"] == target]
            self.assertEqual(set(found), {kernel["function"] for kernel in kernels})
            for kernel in kernels:
                one = found[kernel["function"]]
                self.assertEqual(one["row"], kernel["kernel"])
                self.assertEqual(one["target"], target)
                self.assertEqual(one["path"], kernel["path"])
                self.assertEqual(one["bytes"]["object"], kernel["object_bytes"])
                self.assertIn(kernel["function"] + "_argv", one["symbols"]["defined"])
                self.check_loop(one, kernel["params"])

    def check_loop(self, one, params):
        """MACs from the printed instructions, counted in another way than qconvc does; cycles from llvm-mca."""
        loop = one["hot_loop"]
        lines = loop["instructions"]

        def bits(pattern):
            widths = {"x": 128, "y": 256, "z": 512}
            return sum(
                widths[max(re.findall(r"%([xyz])mm", line))] for line in lines if re.match(rf"v?{pattern}\b", line)
            )

        expected = {
            "b1b1": bits("popcnt[dq]") or bits("pxor"),
            "int8": bits("pdpbusd") / 8 or bits("pmaddwd") / 16,
            "f32b1": bits("addps") / 32 * int(params.get("table_channels", 0)),
            "f32f32": bits("fmadd[0-9]+ps") / 32 or bits("mulps") / 32,
        }[loop["path"]]
        self.assertGreater(expected, 0, lines)
        self.assertEqual(loop["macs_per_iteration"], expected, lines)
        self.assertAlmostEqual(loop["macs_per_cycle"], expected / loop["cycles_per_iteration"])
        self.assertLessEqual(loop["bound_cycles_per_iteration"], loop["cycles_per_iteration"] * 1.001)
        self.assertLessEqual(loop["macs_per_cycle"], loop["limit_macs_per_cycle"] * 1.001)
        self.assertEqual(loop["bound_cycles_per_iteration"] >= max(loop["unit_cycles_per_iteration"].values()), True)
        if MCA:
            self.assertAlmostEqual(loop["cycles_per_iteration"], self.mca_cycles(lines, loop["cpu"]), delta=0.05)

    def mca_cycles(self, lines, cpu):
        """Cycles an iteration by the llvm-mca program, in the steady state."""
        # Offsets of the printed branch are from itself; llvm-mca needs a label.
        text = "top:\n" + "\n".join(re.sub(r"^(j\S+)\s.*", r"\1 top", line) for line in lines) + "\n"

        def total(iterations):
            done = subprocess.run(
                [MCA, "-mtriple=x86_64-linux-gnu", f"-mcpu={cpu}", f"-iterations={iterations}", "-"],
                input=text, capture_output=True, text=True, timeout=60, check=True,
            )  # fmt: skip
            return int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1])

        return (total(400) - total(200)) / 200

    def test_cpu_changes_the_cycles_only(self):
        only = ["--kernel", "binary"]
        (haswell,) = self.inspect(self.library, "--cpu", "haswell", *only)
        (zen,) = self.inspect(self.library, "--cpu", "znver3", *only)
        self.assertNotEqual(haswell["hot_loop"]["cycles_per_iteration"], zen["hot_loop"]["cycles_per_iteration"])
        self.assertEqual(haswell["hot_loop"]["instructions"], zen["hot_loop"]["instructions"])
        self.refuse(["inspect", self.library, "--cpu", "hasswell"], "--cpu 'hasswell'", "nearest name is 'haswell'")

    def test_without_the_manifest_the_path_is_guessed(self):
        library = shutil.copy(self.library, self.dir / "moved.a")
        one = self.inspect(library, "--kernel", "binary")[0]
        self.assertNotIn("row", one)
        self.assertEqual(one["hot_loop"]["path"], "b1b1")

    def test_layer_file_and_loop_nest(self):
        path = self.file("net.json", LAYERS[:2])
        page = self.dir / "nest.html"
        done = self.run_tool("inspect", path, "-t", "avx2", "--kernel", "integer", "--stmt", page)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("net_integer_avx2", done.stdout)
        self.assertNotIn("net_binary_avx2", done.stdout)
        text = page.read_text()
        self.assertIn("<html", text.lower())
        self.assertIn("net_integer_avx2", text)
        # One page shows one kernel.
        self.refuse(["inspect", path, "-t", "avx2", "--stmt", self.dir / "no.html"], "--stmt", "net_binary_avx2")
        self.assertFalse((self.dir / "no.html").exists())

    def test_brief_is_a_line_a_kernel(self):
        done = self.run_tool("inspect", self.library, "--brief")
        kernels = [line.split()[0] for line in done.stdout.splitlines()[1:]]
        self.assertEqual(sorted(kernels), sorted(f"net_{layer['name']}_sse41" for layer in LAYERS))

    def test_bad_files(self):
        self.refuse(["inspect", self.dir / "no.a"], "no.a", "No such file")
        self.refuse(["inspect", self.file("text.a", "hello")], "text.a", "not recognized")
        self.refuse(["inspect", self.file("cut.a", b"!<arch>\nnonsense")], "cut.a")
        library = self.library.read_bytes()
        self.refuse(["inspect", self.file("half.a", library[: len(library) // 2])], "half.a")
        self.refuse(["inspect", self.library, "--kernel", "nothing"], "'nothing'")
        self.refuse(["inspect", self.library, "--stmt", "x.html"], "--stmt", "layer file")
        self.refuse(["inspect", self.library, "-t", "avx2"], "--target")


if __name__ == "__main__":
    cli_support.main(__doc__)
