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
from random import Random

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
        halide = module().parent / "libHalide.so"  # of a build tree, which the copy would look for beside itself
        if halide.exists():
            (self.dir / "lib/qconv").mkdir(parents=True)
            (self.dir / "lib/qconv/libHalide.so").symlink_to(halide.resolve())
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

    def test_files_that_are_no_library(self):
        self.refuse(["inspect", self.file("empty.a", b"")], "empty.a", "not recognized")
        self.refuse(["inspect", self.file("empty.o", b"")], "empty.o", "not recognized")
        self.refuse(["inspect", self.dir], self.dir.name, "directory")
        self.refuse(["inspect", "/dev/null"], "/dev/null", "not recognized")
        for end in (4, 9, 60, 68, 1000):
            library = self.file("start.a", self.library.read_bytes()[:end])
            if end in (9, 68):  # an archive of no members, or of an empty one
                continue
            self.refuse(["inspect", library], "start.a")

    def test_damaged_objects_end_in_a_report_or_an_error(self):
        """Cut short, or with bytes or words changed, mostly where the tables of sections and symbols lie."""
        seed = 1
        random = Random(seed)
        whole = self.library.read_bytes()
        members = [match.start() for match in re.finditer(rb"\x7fELF", whole)]
        # The table of symbols and one object, so that a case takes little time.
        header = 60
        whole = whole[: members[1] - header]
        wild = [b"\xff" * 8, bytes(8), bytes(7) + b"\x80", len(whole).to_bytes(8, "little")]
        refused = 0
        for case in range(100):
            damaged = bytearray(whole)
            if case % 5 == 0:
                del damaged[random.randrange(8, len(whole)) :]
            for _ in range(random.choice((1, 2, 8, 64))):
                sections = members[0] + int.from_bytes(whole[members[0] + 40 : members[0] + 48], "little")
                at = random.choice((members[0] + random.randrange(64), sections + random.randrange(1000)))
                at = random.choice((at, at, random.randrange(8, len(whole))))
                new = random.choice((bytes([random.randrange(256)]), random.choice(wild)))
                if at + len(new) <= len(damaged):
                    damaged[at : at + len(new)] = new
            arguments = ["inspect", self.file("damaged.a", bytes(damaged)), "--brief"]
            done = self.run_tool(*arguments)
            self.assertIn(done.returncode, (0, 2), (seed, case, done.stderr))
            if done.returncode == 2:
                refused += 1
                self.assertRegex(done.stderr, r"\Aqconvc: .*damaged\.a: .+\n\Z", (seed, case))
        self.assertGreater(refused, 20)

    def test_what_ends_the_reader_is_an_error(self):
        """LLVM ends the process on a table of symbols that is no whole number of symbols."""
        whole = bytearray(self.library.read_bytes())
        first = whole.index(b"\x7fELF")
        sections = first + int.from_bytes(whole[first + 40 : first + 48], "little")
        count = int.from_bytes(whole[first + 60 : first + 62], "little")
        headers = [sections + 64 * index for index in range(count)]
        (symbols,) = (at for at in headers if whole[at + 4] == 2)  # SHT_SYMTAB
        whole[symbols + 32] ^= 1
        self.refuse(["inspect", self.file("odd.a", bytes(whole))], "odd.a: not a library that can be read", "sh_size")

    def test_layer_files_that_say_what_is_not_there(self):
        layers = self.file("net.json", LAYERS[:1])
        self.refuse(["inspect", layers, "-t", "avx51"], "'avx51'", "avx512")
        self.refuse(["inspect", layers, "-t", "avx2", "--cpu", "hasswell"], "--cpu 'hasswell'")
        self.refuse(["inspect", layers, "-t", "avx2", "--kernel", "nothing"], "'nothing'")
        self.refuse(["inspect", layers, "--directions", "sideways"], "sideways")
        self.refuse(["inspect", self.file("kernel.json", {**LAYER, "kernel": "b1b1_w99"})], "'kernel'", "conv")
        self.refuse(["inspect", self.file("empty.json", "")], "empty.json")
        depth = 200_000
        self.refuse(["inspect", self.file("deep.json", "[" * depth + "]" * depth)], "deep.json", "inside each other")

    def test_target_that_this_qconvc_does_not_have(self):
        """As made by a newer qconvc: the figures are there, the limit is the loop's own."""
        library = self.dir / "newer.a"
        library.write_bytes(self.library.read_bytes().replace(b"x86-64-linux-", b"x86-32-linux-"))
        found = self.inspect(library, "--cpu", "znver3")
        limits = {one["hot_loop"].get("limit_of") for one in found if "hot_loop" in one}
        self.assertEqual({one.get("target") for one in found}, {None})
        self.assertEqual(limits, {"its own arithmetic alone"})

    def test_arm(self):
        for target, architecture, cpu in (("arm64_dotprod", "aarch64", "neoverse-n1"), ("arm32", "arm", "cortex-a57")):
            library = self.compile(LAYERS, target)
            found = {one["row"]: one for one in self.inspect(library)}
            self.assertEqual({one["path"] for one in found.values()}, {"b1b1", "int8", "f32b1", "f32f32"})
            for one in found.values():
                self.assertEqual(one["target"], target)
                self.assertIn(architecture, one["format"])
                self.assertEqual(one["instructions_by_vector_bits"]["128"] > 0, True)
                loop = one["hot_loop"]
                self.assertEqual(loop["cpu"], cpu)
                self.check_arm_macs(loop)
                self.assertGreater(loop["cycles_per_iteration"], 0)
                self.assertLessEqual(loop["macs_per_cycle"], loop["limit_macs_per_cycle"] * 1.001)

    def check_arm_macs(self, loop):
        """Of the paths whose instructions say it: lanes of the products, bits of the popcounts."""
        text = loop["instructions"]

        def lanes(pattern):
            return sum(int(m[1]) for line in text if (m := re.match(pattern, re.sub(r"\s+", " ", line))))

        if loop["path"] == "b1b1":
            bits = 8 * lanes(r"cnt v\d+\.(\d+)b") + 128 * sum(bool(re.match(r"vcnt\.8\s+q", line)) for line in text)
            self.assertEqual(loop["macs_per_iteration"], bits, text)
        if loop["path"] == "f32f32":
            products = lanes(r"fml?[au]l? v\d+\.(\d+)s") + 4 * sum(
                bool(re.match(r"v(mla|mul|fma)\.f32\s+q", line)) for line in text
            )
            products += 2 * sum(bool(re.match(r"v(mla|mul|fma)\.f32\s+d", line)) for line in text)
            self.assertEqual(loop["macs_per_iteration"], products, text)

    def test_cuda(self):
        library = self.compile(LAYERS[:2], "cuda")
        for one in self.inspect(library):
            self.assertEqual(one["target"], "cuda")
            (module,) = one["device_code"]
            self.assertRegex(module["target"], r"^sm_\d+$")
            main = max(module["entries"], key=lambda entry: len(entry["hot_loop"]))
            self.assertEqual(sum(main["mix"].values()), main["instructions"])
            self.assertEqual(sum(main["hot_loop_mix"].values()), len(main["hot_loop"]))
            work = {"b1b1": "popc", "int8": "dp4a"}[one["path"]]
            self.assertTrue(any(name.startswith(work) for name in main["hot_loop_mix"]), main["hot_loop_mix"])

    def compile(self, layers, target):
        path = self.file(f"net_{target}.json", layers)
        done = self.run_tool("compile", path, "-t", target, "-o", self.dir / target)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.dir / target / f"libnet_{target}_{target}.a"


if __name__ == "__main__":
    cli_support.main(__doc__)
