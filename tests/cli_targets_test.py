"""Targets of other architectures and operating systems: names, object formats, and refusals.

usage: cli_targets_test.py QCONVC [unittest arguments]
"""

import json
import struct

import cli_support
from cli_support import LAYER, Cli

ELF, MACHO = b"\x7fELF", b"\xcf\xfa\xed\xfe"
X86_64, ARM, AARCH64 = 62, 40, 183  # ELF's e_machine
MACHO_ARM64 = 0x0100000C  # Mach-O's cputype

# --target, its part in file names, its runtime, object format, class (1: 32 bits, 2: 64) and machine.
FORMATS = [
    ("avx2", "avx2", "x86-64-linux", ELF, 2, X86_64),
    ("arm64", "arm64", "arm-64-linux", ELF, 2, AARCH64),
    ("arm64_dotprod", "arm64_dotprod", "arm-64-linux", ELF, 2, AARCH64),
    ("arm32", "arm32", "arm-32-linux", ELF, 1, ARM),
    ("arm-64-android-arm_dot_prod", "arm64_dotprod_android", "arm-64-android", ELF, 2, AARCH64),
    ("arm-64-osx", "arm64_osx", "arm-64-osx", MACHO, 2, MACHO_ARM64),
    ("x86-64-windows-sse41", "sse41_windows", "x86-64-windows", None, 0, 0x8664),
]


def members(archive: bytes):
    """The files in an archive, in the common and in the BSD form, without its symbol tables."""
    assert archive[:8] == b"!<arch>\n"
    at = 8
    while at < len(archive):
        name, size = archive[at:at + 16].decode().strip(), int(archive[at + 48:at + 58])
        content = archive[at + 60:at + 60 + size]
        at += 60 + size + size % 2
        if name.startswith("#1/"):  # the name comes first in the content
            length = int(name[3:])
            name, content = content[:length].rstrip(b"\0").decode(), content[length:]
        if name not in ("/", "//", "__.SYMDEF", "__.SYMDEF SORTED", "/SYM64/"):
            yield content


class Targets(Cli):
    def check_format(self, archive: bytes, magic, bits, machine):
        objects = list(members(archive))
        self.assertTrue(objects)
        for content in objects:
            if magic == ELF:
                self.assertEqual(content[:4], ELF)
                self.assertEqual(content[4], bits)
                self.assertEqual(struct.unpack_from("<H", content, 18)[0], machine)
            elif magic == MACHO:
                self.assertEqual(content[:4], MACHO)
                self.assertEqual(struct.unpack_from("<I", content, 4)[0], machine)
            else:  # COFF starts with the machine
                self.assertEqual(struct.unpack_from("<H", content)[0], machine)

    def test_every_platform_in_one_command(self):
        out = self.dir / "out"
        arguments = ["compile", self.file("net.json", LAYER), "-o", out, "--json"]
        for target in FORMATS:
            arguments += ["-t", target[0]]
        done = self.run_tool(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        manifest = json.loads(done.stdout)
        self.assertEqual([t["name"] for t in manifest["options"]["targets"]], [f[1] for f in FORMATS])
        for option, label, platform, magic, bits, machine in FORMATS:
            with self.subTest(target=option):
                halide = next(t["halide"] for t in manifest["options"]["targets"] if t["name"] == label)
                self.assertTrue(halide.startswith(platform), halide)
                pattern = "{}.lib" if "windows" in platform else "lib{}.a"
                for name in (f"net_{label}", f"qconv_halide_runtime_{platform}"):
                    self.check_format((out / pattern.format(name)).read_bytes(), magic, bits, machine)
                header = (out / f"net_{label}.h").read_text()
                self.assertIn(f"net_{label}_register", header)
                # The registry knows the target by its own name, whatever the operating system.
                self.assertIn(f'.target = "{label.split("_android")[0].split("_osx")[0].split("_windows")[0]}"', header)
        self.assertEqual(len(list(out.glob("*qconv_halide_runtime_*"))), len({f[2] for f in FORMATS}))

    def test_all_is_this_architecture(self):
        out = self.dir / "out"
        done = self.run_tool("compile", self.file("net.json", LAYER), "-o", out, "--json", "-t", "all")
        self.assertEqual(done.returncode, 0, done.stderr)
        names = [t["name"] for t in json.loads(done.stdout)["options"]["targets"]]
        self.assertEqual(names, ["sse41", "avx2", "avx512", "avx512_zen4"])

    def test_refusals(self):
        layers, out = self.file("net.json", LAYER), self.dir / "out"
        compile_for = ["compile", layers, "-o", out, "-t"]
        self.refuse([*compile_for, "arm-64-linux-sve2"], "'sve2'", "arm64", "arm-64-linux")
        self.refuse([*compile_for, "riscv-64-linux"], "'riscv-64-linux' is unknown", "arm64_dotprod")
        self.refuse([*compile_for, "arm-64-linux-dotprod"], "is unknown")
        self.refuse([*compile_for, "arm64_dotprd"], "did you mean 'arm64_dotprod'")
        self.nothing_written("net.json")

    def test_kernels_of_another_machine_do_not_run_here(self):
        layers = self.file("net.json", LAYER)
        self.refuse(["verify", layers, "-t", "arm64"], "arm64", "lacks asimd", code=3)
        self.refuse(["bench", "-t", "arm64_dotprod"], "arm64_dotprod", "lacks asimd", code=3)
        self.refuse(["verify", layers, "-t", "x86-64-osx-sse41"], "x86-64-osx", "another operating system", code=3)


if __name__ == "__main__":
    cli_support.main(__doc__)
