#!/usr/bin/env python3
"""Multiply-accumulates per cycle of the ARM kernels' inner loops, by static analysis: no ARM machine takes part.

Compiles kernels with qconvc-emit (build/release/bin, ./dev build qconvc-emit), finds the hottest loop of each in its
disassembly, and runs llvm-mca on it for five cores; all memory accesses hit L1. Needs LLVM's tools (Debian: llvm-22).

    bench/arm_mca.py                                # the table of docs, on standard output
    bench/arm_mca.py --output bench/results/arm-mca.md
    bench/arm_mca.py --kernel 'b1b1_w32x4' --loop   # some kernels, with their loops
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Cortex-A76 is judged by Neoverse N1, the same core family: LLVM's model of cortex-a76 has older cores' latencies.
CORES = {"A55": "cortex-a55", "N1 (A76)": "neoverse-n1", "V1": "neoverse-v1", "V2": "neoverse-v2", "M1": "apple-m1"}
ITERATIONS = 300


@dataclass(frozen=True)
class Row:
    """A kernel, the instruction that does its work, and the multiply-accumulates of one of those."""

    kernel: str
    target: str
    instruction: str
    macs: float
    shape: tuple[int, ...] | None = None  # in, out channels, kernel size, stride, dilation, groups; else generic
    note: str = ""

    @property
    def title(self) -> str:
        return f"{self.kernel} @{self.target}" + (f", {self.note}" if self.note else "")


# Hand-written loops, measured in the same way: (A55, N1, V1, V2, M1).
ANCHORS = {
    "b1b1": ("Larq Compute Engine, the best of its four loops (8x4x4; multiples of 128 channels)",
             (37.2, 85.3, 170.5, 170.5, 127.9)),
    "int8": ("XNNPACK qs8 4x16c4 neondot", (10.0, 32.0, 63.9, 56.8, 47.9)),
    "f32": ("XNNPACK f32 6x8 neonfma: the fmla limit", (3.8, 8.0, 15.9, 14.7, 12.0)),
}

SHAPE_S1, SHAPE_S2 = (256, 256, 3, 1, 1, 1), (256, 256, 3, 2, 1, 1)
SECTIONS: list[tuple[str, str, list[Row]]] = [
    ("Binary inputs and weights", "b1b1", [
        Row("b1b1_w32x4_c32", "arm64_dotprod", "cnt", 128, None, "any shape"),
        Row("b1b1_w32x4_c32", "arm64_dotprod", "cnt", 128, SHAPE_S1, "256 channels, stride 1"),
        Row("b1b1_w32x4_c32", "arm64_dotprod", "cnt", 128, SHAPE_S2, "256 channels, stride 2"),
        Row("b1b1_w32x4_c32", "arm64_dotprod", "cnt", 128, (40, 64, 3, 1, 1, 1), "40 channels, of 64 in words"),
        Row("b1b1_w32x4_c8", "arm64_dotprod", "cnt", 128, None, "8 channels and 4 taps a word"),
        Row("b1b1_a2w1_w32x4_c32", "arm64_dotprod", "cnt", 64, None, "2-bit inputs"),
        Row("b1b1_w16x8_c16", "arm64", "cnt", 128, None, "any shape"),
        Row("b1b1_w16x8_c16", "arm64", "cnt", 128, SHAPE_S2, "256 channels, stride 2"),
    ]),
    ("Integers", "int8", [
        Row("int8_c4_s1", "arm64_dotprod", "sdot", 16, None, "any shape"),
        Row("int8_c4_s1", "arm64_dotprod", "sdot", 16, SHAPE_S1, "256 channels"),
        Row("int8_c4", "arm64_dotprod", "sdot", 16, SHAPE_S2, "256 channels, stride 2"),
        Row("int16_w16_s1", "arm64", "smlal2?", 4, None, "any shape: no dot product"),
    ]),
    ("Floats", "f32", [
        Row("f32f32_o8_s1", "arm64", "fmla", 4, None, "real weights"),
        Row("f32b1_g5x4_s1", "arm64", "fadd", 20, None, "binary weights"),
        Row("f32b1_g5x4", "arm64", "fadd", 20, SHAPE_S2, "binary weights, 256 channels, stride 2"),
    ]),
]


HEAD = """# ARM kernels: multiply-accumulates per cycle, by static analysis

No ARM machine took part: llvm-mca's models of five cores, run on the inner loops of the kernels as `qconvc` emits them
(`bench/arm_mca.py`). Figures in brackets are to the hand-written loop in each table's first row, analysed in the same way.
All accesses hit L1. Neoverse N1 is run with a dispatch width of 4 and stands for Cortex-A76, whose own model has older
cores' latencies; the model of M1 has three vector units, the chip four; that of A55 charges a pair of loads six
cycles. MAC/vop: multiply-accumulates of a 128-bit vector operation, 42.7 at most for xor, count and accumulate.
"""

TAIL = """
## SVE2

No target: a binary step is `eor`, `cnt`, `add` for each 256 bits where NEON has `eor`, `cnt`, `udot` for each 128, and cores with
256-bit SVE have half as many of its units (Neoverse V1: two of 256 bits, or four of 128), those with 128-bit SVE2 (V2,
Cortex-X) as many: the same 170 MACs per cycle on both. Halide fixes the vector length at compile time, so that such a kernel
would run on some of these cores only.
"""


def tool(name: str) -> str:
    """The newest of LLVM's tools by this name."""
    for version in ("-22", "-21", "-20", "-19", ""):
        if path := shutil.which(name + version):
            return path
    sys.exit(f"arm_mca.py: {name} is missing: apt-get install llvm-22")


def compile_kernel(row: Row, emit: Path, folder: Path) -> list[str]:
    """The disassembly of a kernel's object."""
    object_file = folder / "kernel.o"
    command = [str(emit), "kernel", "--list", str(ROOT / "kernels.json"), "--kernel", row.kernel, "--target",
               row.target, "--function", "kernel", "-o", str(object_file)]
    if row.shape:
        command += ["--shape", *map(str, row.shape)]
    subprocess.run(command, check=True)
    text = subprocess.run([tool("llvm-objdump"), "-d", "--no-show-raw-insn", "--mattr=+dotprod,+neon", object_file],
                          check=True, capture_output=True, text=True).stdout
    return text.splitlines()


def innermost_loops(lines: list[str]) -> list[list[str]]:
    """Bodies between a backward branch and its target that hold no other branch."""
    code: list[tuple[int, str]] = []
    for line in lines:
        if match := re.match(r"\s*([0-9a-f]+):\s+(.*)", line):
            code.append((int(match[1], 16), match[2].strip()))
        else:
            code.append((-1, ""))  # between functions
    place = {address: i for i, (address, _) in enumerate(code) if address >= 0}
    loops = []
    for i, (address, text) in enumerate(code):
        match = re.match(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\S+,)\s*0x([0-9a-f]+)", text)
        if not match or not (target := int(match[1], 16)) <= address:
            continue
        body = [t for _, t in code[place.get(target, i):i + 1]]
        if sum(bool(re.match(r"(b\.|b\s|cbn?z|tbn?z|bl|ret)", t)) for t in body) == 1:
            loops.append(body)
    return loops


def count(body: list[str], instruction: str) -> int:
    return sum(bool(re.match(rf"{instruction}\s", text)) for text in body)


def vector_operations(body: list[str]) -> int:
    return sum(bool(re.search(r"\bv\d+\.", t)) and not re.match(r"(ld|st)", t) for t in body)


def normalise(body: list[str]) -> str:
    """For llvm-mca: no addresses; post-indexed accesses as access and addition, since the models charge the load's
    latency to the address."""
    result = []
    for text in body:
        text = re.sub(r"(?<!#)0x[0-9a-f]+( <.*>)?$", ". - 4", re.sub(r"\s*//.*", "", text))
        if match := re.match(r"(.*)\[(x\d+|sp)\],\s*#(-?(?:0x)?[0-9a-f]+)$", text):
            step = int(match[3], 0)
            result += [f"{match[1]}[{match[2]}]", f"{'add' if step >= 0 else 'sub'} {match[2]}, {match[2]}, #{abs(step)}"]
        else:
            result.append(text)
    return "\n".join(result) + "\n"


def cycles(body: list[str], core: str, iterations: int = ITERATIONS) -> float:
    """Of one iteration."""
    command = [tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={core}", "-mattr=+dotprod", f"-iterations={iterations}",
               "-instruction-info=0", "-resource-pressure=0"]
    if core == "neoverse-n1":
        command.append("-dispatch=4")  # the model's 3 is below the core's
    done = subprocess.run(command, capture_output=True, text=True, input=normalise(body))
    match = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if not match:
        sys.exit(f"arm_mca.py: llvm-mca: {done.stderr}")
    return int(match[1]) / iterations


def measure(row: Row, emit: Path, show: bool) -> tuple[float, list[float]]:
    """MACs per vector operation, and per cycle of each core, of the loop with the most of the row's instructions."""
    with tempfile.TemporaryDirectory() as folder:
        lines = compile_kernel(row, emit, Path(folder))
    # Loops that store build tables or turn sums into results.
    loops = [loop for loop in innermost_loops(lines) if not count(loop, r"st\w+")]
    body = max(loops, key=lambda loop: count(loop, row.instruction), default=[])
    macs = row.macs * count(body, row.instruction)
    if macs == 0:
        sys.exit(f"arm_mca.py: {row.title}: no loop with {row.instruction}")
    if show:
        print(f"# {row.title}\n" + "\n".join(body) + "\n", file=sys.stderr)
    return macs / vector_operations(body), [macs / cycles(body, core) for core in CORES.values()]


def line(title: str, cells: list[str]) -> str:
    return "| " + " | ".join([title, *cells]) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emit", type=Path, default=ROOT / "build/release/bin/qconvc-emit", help="the emitter")
    parser.add_argument("--kernel", default="", help="only rows whose title matches this expression")
    parser.add_argument("--loop", action="store_true", help="print the loops, on standard error")
    parser.add_argument("--output", type=Path, help="write the table there instead of standard output")
    arguments = parser.parse_args()
    if not arguments.emit.exists():
        sys.exit(f"arm_mca.py: {arguments.emit} is missing: ./dev build qconvc-emit")

    text = HEAD
    for title, anchor, rows in SECTIONS:
        rows = [row for row in rows if re.search(arguments.kernel, row.title)]
        if not rows:
            continue
        text += f"\n## {title}\n\n" + line("inner loop", ["MAC/vop", *CORES]) + "|---|" + "--:|" * (len(CORES) + 1) + "\n"
        name, best = ANCHORS[anchor]
        text += line(name, ["", *(f"{value:.1f}" for value in best)])
        for row in rows:
            per_operation, per_cycle = measure(row, arguments.emit, arguments.loop)
            text += line(row.title, [f"{per_operation:.1f}",
                                     *(f"{v:.1f} ({v / b:.2f})" for v, b in zip(per_cycle, best))])
            print(text.splitlines()[-1], file=sys.stderr, flush=True)
    text += TAIL
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
