"""What is installed works outside the tree: the CMake package, pkg-config, the archive, beside another Halide library.

usage: package_test.py BUILD_TREE CMAKE [unittest arguments]
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parent
BUILD = CMAKE = pathlib.Path()
PROGRAM = """
#include <stdio.h>
#include "qconv/qconv.h"
int main(void) {
    if (qconv_register_generic_kernels() != QCONV_OK) return 1;
    qconv_layer_config config;
    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
    config.in_channels = 32;
    const float weight[32] = {0}, x[32] = {0};
    float y[1];
    qconv_layer *layer;
    if (qconv_layer_create(&config, weight, NULL, &layer) != QCONV_OK) return 2;
    if (qconv_layer_forward(layer, x, 1, 1, y, NULL, 0) != QCONV_OK) return 3;
    qconv_layer_destroy(layer);
    printf("%d kernels, y = %g\\n", qconv_kernel_count() > 10, y[0]);
    return y[0] != 32;
}
"""


def run(*command, code=0, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=500, **options)
    if (done.returncode == 0) != (code == 0):
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout + done.stderr


class Package(unittest.TestCase):
    maxDiff = None  # of the exported symbols, all is of interest

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="qconv-package-")
        cls.addClassCleanup(scratch.cleanup)
        cls.dir = pathlib.Path(scratch.name)
        cls.prefix = cls.dir / "prefix"
        run(CMAKE, "--install", BUILD, "--prefix", cls.prefix)

    def configure(self, name, *options, source=SOURCE / "consumer", **rest):
        tree = self.dir / name
        ninja = re.search(r"CMAKE_MAKE_PROGRAM:\w+=(.*)", (BUILD / "CMakeCache.txt").read_text())[1]
        output = run(
            CMAKE, "-S", source, "-B", tree, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_PREFIX_PATH={self.prefix}", *options, **rest,
        )  # fmt: skip
        return tree, output

    def build(self, tree):
        return run(CMAKE, "--build", tree)

    def layers(self, name, out_channels=32):
        """A copy of the layer files, so that they can change."""
        folder = self.dir / name
        folder.mkdir(exist_ok=True)
        net = (SOURCE / "consumer/net.json").read_text()
        (folder / "net.json").write_text(net.replace('"out_channels": 32', f'"out_channels": {out_channels}'))
        if not (folder / "more.json").exists():
            shutil.copy(SOURCE / "consumer/more.json", folder)
        return folder

    def test_consumer_is_built_again_when_a_layer_changes(self):
        folder = self.layers("layers")
        tree, _ = self.configure("static", "-DCONSUMER_TARGETS=host;sse41", f"-DCONSUMER_LAYERS={folder}")
        self.build(tree)
        self.assertRegex(run(tree / "consumer"), r"net_conv_\w+ .*more_last_\w+: 0 wrong")
        self.assertIn("no work to do", self.build(tree))
        self.layers("layers", out_channels=16)
        output = self.build(tree)
        self.assertIn("Compiling the kernels of net", output)
        self.assertNotIn("Compiling the kernels of more", output)
        # No generic kernels are linked: the layer of 16 channels has a kernel because it was compiled.
        self.assertRegex(run(tree / "consumer", "16"), r"net_conv_\w+ .*: 0 wrong")
        self.assertIn("compiled for another shape", run(tree / "consumer", "32", code=1))

    def test_shared(self):
        tree, _ = self.configure("shared", "-DCONSUMER_SHARED=ON")
        self.build(tree)
        self.assertIn("0 wrong", run(tree / "consumer"))
        self.assertRegex(run("ldd", tree / "consumer"), rf"libqconv\.so\.\d+\.\d+ => {self.prefix}/lib/")

    def test_beside_another_halide_library(self):
        other = self.dir / "other"
        other.mkdir()
        python = BUILD.parent.parent / ".venv/bin/python3"
        if not python.exists():
            self.skipTest("no .venv with Halide's Python module")
        run(python, SOURCE / "consumer/other.py", other)
        tree, _ = self.configure("beside_build", f"-DCONSUMER_OTHER={other}", "-DCONSUMER_TARGETS=sse41")
        self.build(tree)
        for program in ("beside", "beside_first"):
            self.assertIn("allocated 40 and released 40 of 40", run(tree / program))
            # One definition of everything in Halide's runtime.
            names = re.findall(r" [TtWw] (halide_\w+)$", run("nm", tree / program), re.MULTILINE)
            self.assertIn("halide_do_par_for", names)
            self.assertEqual(sorted(names), sorted(set(names)))

    def test_bad_arguments_name_what_is_allowed(self):
        _, output = self.configure("bad_target", "-DCONSUMER_TARGETS=avx51", code=1)
        self.assertRegex(output, r"qconv_add_kernels\(net\):\s+'avx51'")
        self.assertIn("avx512_zen4", output)
        _, output = self.configure("bad_layers", f"-DCONSUMER_LAYERS={self.dir}/nowhere", code=1)
        self.assertIn("does not exist", output)

    def test_example(self):
        tree, _ = self.configure("example", source=SOURCE.parent / "examples/link_cmake")
        self.build(tree)
        self.assertIn("first outputs 16 32 48, last 80", run(tree / "link_cmake"))

    def compile_with_pkg_config(self, package, prefix, name):
        source = self.dir / "program.c"
        source.write_text(PROGRAM)
        environment = {**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")}
        flags = run("pkg-config", "--cflags", "--libs", package, env=environment).split()
        program = self.dir / name
        run("cc", "-std=c99", "-Wall", "-Werror", source, *flags, "-o", program)
        library_path = {**os.environ, "LD_LIBRARY_PATH": str(prefix / "lib")}
        self.assertIn("1 kernels, y = 32", run(program, env=library_path))
        return program

    def test_pkg_config(self):
        shared = self.compile_with_pkg_config("qconv", self.prefix, "shared_program")
        self.assertRegex(run("readelf", "-d", shared), r"NEEDED.*libqconv\.so\.0\.1")
        static = self.compile_with_pkg_config("qconv-static", self.prefix, "static_program")
        self.assertNotIn("libqconv", run("readelf", "-d", static))

    def test_exported_symbols(self):
        exported = run(SOURCE / "exported_symbols.sh", self.prefix / "lib/libqconv.so")
        listed = SOURCE / "exported_symbols.txt"
        self.assertEqual(
            exported, listed.read_text(), f"the ABI changed: tests/exported_symbols.sh LIBQCONV.so > {listed}"
        )

    def test_header_and_library_share_no_class(self):
        """Two classes of one name, in a program and in libqconv.a, would be taken for each other by the linker. (They share
        error.hpp.)"""
        names = set()
        for header in (self.prefix / "include/qconv/qconv.hpp", self.prefix / "include/qconv/gpu.hpp"):
            names.update(re.findall(r"^(?:class|struct) (\w+)", header.read_text(), re.MULTILINE))
        self.assertIn("NetworkLayer", names)
        symbols = run("nm", "--demangle", "--defined-only", self.prefix / "lib/libqconv.a")
        self.assertEqual(set(re.findall(r"\bqconv::(\w+)", symbols)) & names, set())

    def test_every_file_has_its_package(self):
        """Of the components that install() is told, qconv and inspect, there is a .deb each."""
        script = (BUILD / "cmake_install.cmake").read_text()
        self.assertEqual(set(re.findall(r'CMAKE_INSTALL_COMPONENT STREQUAL "(\w+)"', script)) - {"inspect"}, {"qconv"})

    def test_archive(self):
        """The .tar.gz, unpacked and moved elsewhere: qconvc compiles, and what it compiled links."""
        run(CMAKE.with_name("cpack"), "-G", "TGZ", "-B", self.dir / "archive", cwd=BUILD)
        (archive,) = (self.dir / "archive").glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(self.dir / "archive", filter="data")
        moved = (self.dir / "archive" / archive.name.removesuffix(".tar.gz")).rename(self.dir / "moved")
        self.compile_with_pkg_config("qconv-static", moved, "moved_program")
        # With the winners of tuning that come along; whether they are of this version's algorithms is another matter.
        (records,) = (moved / "share/qconv/tuned").glob("avx512_zen4.jsonl")
        kernels = self.dir / "kernels"
        run(
            moved / "bin/qconvc", "compile", SOURCE / "consumer/net.json", "-t", "sse41", "-o", kernels, "--tuned", records
        )  # fmt: skip
        self.assertTrue((kernels / "libnet_sse41.a").exists())
        tuned = json.loads((kernels / "manifest.json").read_text())["tuned"]
        self.assertEqual(
            tuned["valid_records"] + tuned["stale_records"], len(records.read_text().splitlines()), tuned
        )
        self.assertTrue((moved / "share/doc/qconv/LICENSE").exists())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    BUILD, CMAKE = (pathlib.Path(sys.argv.pop(1)).absolute() for _ in range(2))
    unittest.main()
