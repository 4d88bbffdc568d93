"""Every command that the documentation shows: run, or named here with the reason why not. Synopses: every option they show
is in --help. Also: versions agree, links lead somewhere, the reference builds.

A command is an indented line that starts with one of the programs below, with or without "$ ". Those of a page run in order
in one folder, which holds layers and arrays by the names that the pages use; a fenced block after <!-- file: NAME --> is
written there first.

usage: docs_test.py BUILD_TREE CMAKE [unittest arguments]
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from cli_support import npy

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = CMAKE = pathlib.Path()
PROGRAMS = r"(?:\./dev|qconvc|bench/\w+\.py|cmake|pip|make|apt-get|cc|c\+\+|(?:app|bin|build)/\S+|\w+ .* \| build/\S+|python|tests/\S+|PKG_CONFIG_PATH=\S+)"
COMMAND = re.compile(rf"^ {{4,}}(?:\$ )?({PROGRAMS} .*)$")

# The first that matches. Long ones are left out; what they run has tests of its own.
NOT_RUN = [
    (r"\./dev (test|demo|train|bench|python|build|docs|tidy)\b(?!.*--filter ECG)", "long, or a verb with a test of its own"),
    (r"bench/\w+\.py", "minutes, and gigabytes of rivals"),
    (r"(apt-get|pip) ", "installs packages"),
    (r"python -m", "needs a model of the reader's"),
    (r"qconvc (compile|run) .*net/", "needs a model of the reader's"),
    (r"build/fuzz/bin/", "needs clang; the fuzz tests run the same targets"),
    (r"bin/qconv_differential", "an hour; the differential test runs the same"),
    (r"(\S+=\S+ )?bin/qconv_tests ", "gigabytes of memory"),
    (r"arecord ", "needs a microphone"),
    (r"cmake --build build/release --target package", "tests/package_test.py makes the archive"),
    (r"cmake --(preset arm64|build build/arm64|install build/arm64)", "a build of its own, which the arm64 test makes"),
    (r"cmake --(preset |build build/)fuzz", "needs clang; the fuzz tests run the same targets"),
    (r"qconvc compile .*--tuned", "needs records, which tests/cli_tune_test.py makes"),
    (r"qconvc (tune|bench --(direction step|matrix))", "long"),
]


def pages():
    patterns = ("README.md", "docs/*.md", "bench/*.md", "examples/**/README.md")
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def commands(text):
    """(line number, command) with continuations joined and comments cut off."""
    found, lines = [], text.splitlines()
    for number, line in enumerate(lines):
        match = COMMAND.match(line)
        if not match:
            continue
        command = match[1]
        while command.endswith("\\"):
            number += 1
            command = command[:-1] + lines[number].strip()
        found.append((number + 1, re.sub(r"\s+#.*| {4,}\(.*\)$", "", command)))
    return found


def is_synopsis(command):
    return bool(re.search(r"\[|\.\.\.|[A-Z]+\|", command))


class Commands(unittest.TestCase):
    maxDiff = None

    def prepare(self, folder, text):
        layer = {"name": "conv", "layer": "QConv1d", "in_channels": 64, "out_channels": 64, "kernel_size": 3}
        layer["padding"] = "same"
        for name in ("layer.json", "net.json"):
            (folder / name).write_text(json.dumps(layer))
        (folder / "conv.json").write_text(json.dumps({**layer, "gradient_cancellation_threshold": 1}))
        for name, shape in {"x": (1, 64, 1000), "w": (64, 64, 3), "gy": (1, 64, 1000)}.items():
            (folder / f"{name}.npy").write_bytes(npy(shape))
        for match in re.finditer(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", text, re.DOTALL):
            path = folder / match[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(match[2])
        # Tools by the names that the pages use.
        bin_folder = folder / ".bin"
        bin_folder.mkdir()
        (bin_folder / "qconvc").symlink_to(BUILD / "bin/qconvc")
        (bin_folder / "cmake").symlink_to(CMAKE)
        for name in ("examples", "bench", "tests"):
            (folder / name).symlink_to(ROOT / name)
        # The tree is built already, so ./dev only has to run what it would.
        dev = folder / "dev"
        dev.write_text(
            f'#!/bin/sh\nverb=$1; shift\ncase $verb in\n'
            f'qconvc) exec "{BUILD}/bin/qconvc" "$@";;\nbench) exec "{BUILD}/bin/qconvc" bench "$@";;\n'
            f'install) exec "{CMAKE}" --install "{BUILD}" --prefix "$1" >/dev/null;;\n'
            f'*) echo "no stand-in for dev $verb" >&2; exit 1;;\nesac\n'
        )
        dev.chmod(0o755)
        # Compilers look into an installed qconv by themselves.
        include, library = ROOT / "runtime/include", BUILD / "lib"
        return {
            **os.environ, "PATH": f"{bin_folder}:{CMAKE.parent}:{os.environ['PATH']}",
            "CPATH": str(include), "LIBRARY_PATH": f"{library}:{os.environ.get('LIBRARY_PATH', '')}",
        }  # fmt: skip

    def check_page(self, page):
        text = (ROOT / page).read_text()
        ran, skipped = 0, 0
        with tempfile.TemporaryDirectory(prefix="qconv-docs-") as scratch:
            folder = pathlib.Path(scratch)
            environment = self.prepare(folder, text)
            for number, command in commands(text):
                if is_synopsis(command):
                    self.check_synopsis(f"{page}:{number}", command)
                    continue
                if any(re.match(pattern, command) for pattern, _ in NOT_RUN):
                    skipped += 1
                    continue
                # Examples are made in the tree; here, on a copy.
                if "-C examples/" in command:
                    (folder / "examples").unlink()
                    shutil.copytree(ROOT / "examples", folder / "examples")
                    command = command.replace("QCONV=PREFIX", f"QCONV={folder}/PREFIX")
                done = subprocess.run(
                    command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
                )
                said = f"{page}:{number}: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                self.assertEqual(done.returncode, 0, said)
                ran += 1
        print(f"{page}: {ran} commands run, {skipped} not", file=sys.stderr)

    def check_synopsis(self, where, command):
        words = command.split()
        tool = {"qconvc": [BUILD / "bin/qconvc"], "./dev": [ROOT / "dev"]}.get(words[0])
        if tool is None or tool[0].name == "dev":
            return
        done = subprocess.run([*tool, words[1], "--help"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, f"{where}: {command}")
        for option in re.findall(r"--[a-z-]+", command):
            self.assertIn(option, done.stdout, f"{where}: {command}")


def add_page(page):
    def test(self):
        self.check_page(page)

    setattr(Commands, "test_" + re.sub(r"\W", "_", page), test)


class Consistency(unittest.TestCase):
    def test_reasons_are_used(self):
        every = [command for page in pages() for _, command in commands((ROOT / page).read_text())]
        for pattern, reason in NOT_RUN:
            if "tune" not in pattern:
                self.assertTrue(any(re.match(pattern, command) for command in every), (pattern, reason))

    def test_versions_agree(self):
        cmake = re.search(r"project\(qconv VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())[1]
        python = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
        self.assertEqual(cmake, python)
        said = subprocess.run([BUILD / "bin/qconvc", "--version"], capture_output=True, text=True).stdout
        self.assertIn(f"qconvc {cmake} ", said)
        self.assertRegex((ROOT / "CHANGELOG.md").read_text(), rf"(?m)^## (Unreleased|{re.escape(cmake)})")

    def test_formatter_pins_agree(self):
        pins = [re.search(r"clang-format==[\d.]+", (ROOT / name).read_text())[0] for name in ("dev", ".pre-commit-config.yaml")]
        self.assertEqual(pins[0], pins[1])

    def test_links(self):
        for page in pages():
            text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
                if not target.startswith(("http:", "https:")):
                    self.assertTrue((ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}")

    def test_every_verb_has_its_page(self):
        done = subprocess.run([BUILD / "bin/qconvc", "--help"], capture_output=True, text=True)
        text = "".join((ROOT / page).read_text() for page in pages())
        verbs = re.findall(r"^  (\w+)  ", done.stdout.split("Subcommands:")[1], re.MULTILINE)
        self.assertGreaterEqual(len(verbs), 6)
        for verb in verbs:
            self.assertRegex(text, rf"(?m)^ {{4,}}qconvc {verb}\b")

    def test_every_option_is_documented(self):
        text = "".join((ROOT / page).read_text() for page in pages())
        done = subprocess.run([BUILD / "bin/qconvc", "--help"], capture_output=True, text=True)
        for verb in re.findall(r"^  (\w+)  ", done.stdout.split("Subcommands:")[1], re.MULTILINE):
            done = subprocess.run([BUILD / "bin/qconvc", verb, "--help"], capture_output=True, text=True)
            options = set(re.findall(r"(?m)^  (?:-\w,)?(--[a-z0-9-]+)", done.stdout))
            self.assertIn("--help", options)
            missing = [option for option in options if not re.search(rf"{option}(?![\w-])", text)]
            self.assertEqual(missing, [], f"qconvc {verb}: options that no page explains")

    def test_the_reference_builds(self):
        if not shutil.which("doxygen"):
            self.skipTest("no doxygen")
        with tempfile.TemporaryDirectory(prefix="qconv-docs-") as scratch:
            config = (ROOT / "docs/Doxyfile").read_text().replace("build/docs", scratch)
            done = subprocess.run(["doxygen", "-"], input=config, cwd=ROOT, capture_output=True, text=True, timeout=200)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual((pathlib.Path(scratch) / "warnings.txt").read_text(), "")
            text = (pathlib.Path(scratch) / "html/qconv_8h.html").read_text()
            self.assertIn("Straight-through gradients from grad_output", text)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    BUILD, CMAKE = (pathlib.Path(sys.argv.pop(1)).absolute() for _ in range(2))
    for one in pages():
        add_page(one)
    unittest.main()
