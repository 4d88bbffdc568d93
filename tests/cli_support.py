"""What the tests of the command line share."""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

QCONVC = ""
LAYER = {"name": "conv", "layer": "QConv1d", "in_channels": 8, "out_channels": 8, "kernel_size": 3}


def npy(shape, descr="<f4", order=False, data=None, version=1):
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    count = 1
    for size in shape:
        count *= size
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + (bytes(4 * count) if data is None else data)


class Cli(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="qconv-cli-")
        self.addCleanup(self.scratch.cleanup)
        self.dir = pathlib.Path(self.scratch.name)

    def file(self, name, content):
        path = self.dir / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def run_tool(self, *arguments, timeout=300, **options):
        return subprocess.run([QCONVC, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, **options)

    def refuse(self, arguments, *words, code=2, **options):
        """Runs qconvc; it must fail with that code and one message that holds every word."""
        done = self.run_tool(*arguments, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line and not line.startswith("[")]
        self.assertEqual(len(errors), 1, "not one message: " + done.stderr)
        self.assertTrue(errors[0].startswith("qconvc: "), errors[0])
        return done

    def nothing_written(self, *allowed):
        left = sorted(p.name for p in self.dir.iterdir() if p.name not in allowed)
        self.assertEqual(left, [])


def main(usage):
    """Runs the tests of the program that was started: the first argument is qconvc, the others are unittest's."""
    global QCONVC
    if len(sys.argv) < 2:
        sys.exit(usage)
    QCONVC = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main(module="__main__")
