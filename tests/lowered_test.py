"""What the generic kernels must not do: call a transcendental function of the C library, one number at a time, or work out
a quantizer's formula for a layer that has another one. Reads the symbols of their objects, and lowered loop nests.

usage: lowered_test.py BUILD_FOLDER KERNEL_LIST [unittest arguments]
"""

import re
import subprocess
import sys
import tempfile
import unittest
from html import unescape
from pathlib import Path

BUILD, KERNELS = map(Path, sys.argv[1:3])
LIBM = re.compile(r"_?(a?(sin|cos|tan)h?|exp2?|expm1|log(2|10|1p)?|pow|sqrt|round|nearbyint|rint)f?(_f32)?")
LOG2_E = re.compile(r"1\.44269\d*f")  # every exponential scales by it

# A kernel of each generator that quantizes inputs or takes derivatives, and the stages that may hold an exponential: those
# of swishsign's derivative. They have cases, one for each kind, and are read by none but layers with such a quantizer.
MAY_HOLD = {
    "f32b1_g5x4": set(),
    "f32f32_o6": set(),
    "f32f32_d8": set(),
    "grad_input_f32b1_g5x2": {"first", "second"},
    "grad_input_f32f32_o6": {"first", "second"},
    "grad_weight_f32b1_g5x4_o16": set(),
    "grad_weight_f32f32_o16_c6": set(),
    "grad_weight_f32f32_w8_k8": set(),
    "save_state": set(),
}


def lowered(kernel: str, folder: Path) -> str:
    """A kernel's loop nest on AVX2."""
    page = folder / f"{kernel}.html"
    subprocess.run([BUILD / "bin" / "qconvc-emit", "kernel", "--list", KERNELS, "--kernel", kernel, "--target", "avx2",
                    "--function", "kernel", "--output", page], check=True)
    text = page.read_text()
    return unescape(re.sub(r"<[^>]+>", "", text[text.index("</style>"):]))


def pieces(text: str):
    """The text between braces, piece by piece, and the innermost stage whose production each is part of."""
    around: list[str | None] = [None]
    for token in re.split(r"(produce [\w$.]+\{|[{}])", text):
        if token == "{":
            around.append(around[-1])
        elif token == "}":
            around = around[:-1] or [None]
        elif token.startswith("produce ") and token.endswith("{"):
            around.append(re.sub(r"\$.*", "", token[len("produce "):-1]))
        else:
            yield token, around[-1]


class Lowered(unittest.TestCase):
    def test_no_kernel_calls_the_mathematical_library(self):
        objects = sorted((BUILD / "kernels").glob("*.o"))
        self.assertGreater(len(objects), 20)
        for file in objects:
            symbols = subprocess.run(["nm", "-u", file], capture_output=True, text=True, check=True).stdout.split()
            self.assertEqual([s for s in symbols if LIBM.fullmatch(s)], [], file.name)

    def test_exponentials_are_in_stages_of_their_own(self):
        with tempfile.TemporaryDirectory() as folder:
            for kernel, may_hold in MAY_HOLD.items():
                with self.subTest(kernel):
                    text = lowered(kernel, Path(folder))
                    self.assertEqual({stage for piece, stage in pieces(text) if LOG2_E.search(piece)}, may_hold)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
