#!/usr/bin/env python3
"""Whole ARM kernels, packing and output included, by static analysis: llvm-mca over all that an emulator ran.

Each layer is compiled for its shape, linked into a program for AArch64, and run once by qemu, which writes down every
instruction of the kernel; llvm-mca plays parts of that back. Caches hit, branches are foreseen. Needs ./dev build
qconvc, cmake --build build/arm64 --target qconv, and the tools of arm_mca.py.

    bench/arm_whole.py                                # the table, on standard output
    bench/arm_whole.py --output bench/results/arm-whole.md
    bench/arm_whole.py --layer 'QConv1d 256'
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from arm_mca import CORES, ROOT, cycles, line, tool

WIDTHS = (100, 400)
STRETCHES, STRETCH = 32, 2000  # of a run, and instructions of each: llvm-mca is slow on long straight code
BEFORE = 500  # instructions run before a stretch and not counted: llvm-mca begins with an empty core and drains it
# name, in and out channels, kernel size, stride, input and weight quantizers, ceiling in MACs of a vector operation
LAYERS = [
    ("binary 256->256 k3", 256, 256, 3, 1, "sign", "sign", 128 / 3),
    ("binary 256->256 k3, stride 2", 256, 256, 3, 2, "sign", "sign", 128 / 3),
    ("binary 128->128 k7", 128, 128, 7, 1, "sign", "sign", 128 / 3),
    ("binary 64->64 k15", 64, 64, 15, 1, "sign", "sign", 128 / 3),
    ("8-bit 256->256 k3", 256, 256, 3, 1, {"name": "inputdorefa", "bits": 8}, {"name": "weightdorefa", "bits": 7}, 16),
]
# Vector pipes of 128 bits: vector operations a cycle.
PIPES = {"A55": 1, "N1 (A76)": 2, "V1": 4, "V2": 4, "M1": 3}

HEAD = f"""# Whole ARM kernels: multiply-accumulates per cycle, by static analysis

No ARM machine took part. `bench/arm_whole.py` compiles each layer for its shape at `arm64_dotprod` and runs it once in
qemu, which writes down every instruction of the kernel: packing, tile set-up, sums, scaling, stores, edges. llvm-mca's
models of five cores (as in arm-mca.md) then run {STRETCHES} stretches of {STRETCH} instructions, spread evenly. A
stretch counts as what it adds to the {BEFORE} instructions before it, since a model begins with an empty core and ends
by draining it. All accesses hit L1, all branches are foreseen.

In brackets: the share of the ceiling, which is all vector units busy with the vector operations of the inner loop.
The inner loop alone reaches 0.77 to 0.80 of it on Cortex-A55 and 1.00 elsewhere (arm-mca.md). Positions are those of the input,
without padding: 100 of them give 98 outputs at kernel size 3, and binary kernels compute 100, in fours.

"""

PROGRAM = """
#include <stdlib.h>
#include "net_arm64_dotprod.h"
int main(void) {
    qconv_layer_config config;
    qconv_layer *layer = NULL;
    if (net_arm64_dotprod_register() != QCONV_OK) return 1;
    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
    config.in_channels = %(inputs)d; config.out_channels = %(outputs)d; config.kernel_size = %(taps)d;
    config.stride = %(stride)d;
    if (%(bits)d > 1) {
        config.input_quantization.kind = QCONV_INPUTDOREFA; config.input_quantization.bits = 8;
        config.weight_quantization.kind = QCONV_WEIGHTDOREFA; config.weight_quantization.bits = 7;
    }
    float *weight = malloc(sizeof(float) * %(inputs)d * %(outputs)d * %(taps)d);
    float *x = malloc(sizeof(float) * %(inputs)d * %(width)d), *y = malloc(sizeof(float) * %(outputs)d * %(width)d);
    for (int i = 0; i < %(inputs)d * %(outputs)d * %(taps)d; i++) weight[i] = (float)(rand() %% 255) / 127.0f - 1.0f;
    for (int i = 0; i < %(inputs)d * %(width)d; i++) x[i] = (float)(rand() %% 255) / 127.0f - 1.0f;
    if (qconv_set_num_threads(1) != QCONV_OK) return 2;
    if (qconv_layer_create(&config, weight, NULL, &layer) != QCONV_OK) return 3;
    return qconv_layer_forward(layer, x, 1, %(width)d, y, NULL, 0) != QCONV_OK;
}
"""


def build(layer: tuple, width: int, folder: Path) -> Path:
    """The program of one layer."""
    _, inputs, outputs, taps, stride, first, second, _ = layer
    config = {"name": "conv", "layer": "QConv1d", "in_channels": inputs, "out_channels": outputs, "kernel_size": taps,
              "stride": stride, "input_quantization": first, "weight_quantization": second}
    (folder / "net.json").write_text(json.dumps(config))
    subprocess.run([ROOT / "build/release/bin/qconvc", "compile", folder / "net.json", "-t", "arm64_dotprod",
                    "-o", folder], check=True, capture_output=True)
    bits = 1 if first == "sign" else 8
    (folder / "main.c").write_text(PROGRAM % {"inputs": inputs, "outputs": outputs, "taps": taps, "stride": stride,
                                              "bits": bits, "width": width})
    subprocess.run(["aarch64-linux-gnu-gcc", "-O1", "-static", "-o", folder / "main", "-I", folder,
                    "-I", ROOT / "runtime/include", folder / "main.c", folder / "libnet_arm64_dotprod.a",
                    ROOT / "build/arm64/lib/libqconv.a", folder / "libqconv_halide_runtime_arm-64-linux.a",
                    "-lstdc++", "-lpthread", "-lm"], check=True, capture_output=True)
    return folder / "main"


def kernel_code(program: Path) -> list[tuple[int, str]]:
    """Addresses and instructions of the kernel's functions."""
    text = subprocess.run([tool("llvm-objdump"), "-d", "--no-show-raw-insn", "--mattr=+dotprod,+neon", program],
                          check=True, capture_output=True, text=True).stdout
    code, inside = [], False
    for row in text.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.*)>:", row):
            inside = match[1].startswith("net_conv_arm64_dotprod")
        elif inside and (match := re.match(r"\s*([0-9a-f]+):\s+(.*)", row)):
            code.append((int(match[1], 16), match[2].strip()))
    return code


def trace(program: Path, code: list[tuple[int, str]], folder: Path) -> list[str]:
    """Every instruction of the kernel as it ran, but for what llvm-mca cannot follow: calls, and addresses of code."""
    log = folder / "trace"
    first, last = min(a for a, _ in code), max(a for a, _ in code)
    subprocess.run(["qemu-aarch64", "-cpu", "max", "-singlestep", "-d", "nochain,exec", "-D", log,
                    "-dfilter", f"{first:#x}..{last + 4:#x}", program], check=True)
    unfollowed = re.compile(r"(bl|blr|ret|br|adrp|adr)\s")
    kept = {a: re.sub(r"0x[0-9a-f]+ <.*>", ". - 4", t) for a, t in code if not unfollowed.match(t + " ")}
    with log.open() as rows:
        places = (re.search(r"\[[0-9a-f]+/([0-9a-f]+)/", row) for row in rows)
        addresses = (int(place[1], 16) for place in places if place)
        return [kept[address] for address in addresses if address in kept]


def total_cycles(run: list[str], core: str) -> float:
    """Of the whole run, from stretches of it spread evenly."""
    step = max(len(run) // STRETCHES, STRETCH)
    starts = range(max(step // 2, BEFORE), len(run) - STRETCH, step)
    seen = sum(cycles(run[i - BEFORE:i + STRETCH], core, iterations=1) - cycles(run[i - BEFORE:i], core, iterations=1)
               for i in starts)
    return seen / (len(starts) * STRETCH) * len(run)


def measure(layer: tuple, width: int) -> str:
    """The row of one layer."""
    title, inputs, outputs, taps, stride, _, _, per_operation = layer
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(layer, width, folder)
        run = trace(program, kernel_code(program), folder)
    macs = inputs * outputs * taps * ((width - taps) // stride + 1)
    cells = []
    for core, model in CORES.items():
        total = total_cycles(run, model)
        cells.append(f"{macs / total:.1f} ({macs / total / (per_operation * PIPES[core]):.2f})")
    return line(title, [str(width), str(inputs * taps), *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", default="", help="only layers whose name matches this expression")
    parser.add_argument("--output", type=Path, help="write the table there instead of standard output")
    arguments = parser.parse_args()
    text = HEAD + line("layer", ["positions", "C*K", *CORES]) + "|---|" + "--:|" * (len(CORES) + 2) + "\n"
    for layer in LAYERS:
        if not re.search(arguments.layer, layer[0]):
            continue
        for width in WIDTHS:
            text += measure(layer, width)
            print(text.splitlines()[-1], file=sys.stderr, flush=True)
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
