#!/usr/bin/env python3
"""What the CUDA kernels are made of, without a GPU: every kernel's PTX through ptxas, and the instructions of its inner loop.

    bench/gpu_static.py                        # sm_80, sm_90, sm_100 -> bench/results/cuda-static.md
    bench/gpu_static.py --arch sm_90 -o -      # one architecture, to the screen

Reads the emitted objects of ./dev build (build/release/kernels/*_cuda.o), and its qconvc-emit. Needs ptxas (CUDA toolkit) and, for the inner
loops, nvdisasm (CUDA toolkit, or the PyPI package nvidia-cuda-nvdisasm), on PATH or given.
"""

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What an SM completes a clock, in threads, of each kind of instruction (CUDA programming guide, 8.0 and later), and in all.
# LOP3 and additions share one unit.
RATES = {"POPC": 16, "IDP": 64, "ALU": 64, "IMAD": 64, "FFMA": 128, "LDS": 32, "LDG": 32}
ISSUE = 128
KINDS = {"VIADD": "IADD", "IADD3": "IADD", "UIADD3": "uniform", "ULOP3": "uniform"}
SHOWN = ("POPC", "IDP", "FFMA", "LOP3", "IADD", "IMAD", "LDS", "LDG")


def find_tool(given: str | None, name: str) -> str | None:
    return given or shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def ptx_of(object_file: Path) -> str:
    """The PTX text inside an object that Halide emitted."""
    data = object_file.read_bytes()
    start = data.find(b".version ")
    if start < 0:
        raise SystemExit(f"{object_file}: no PTX inside")
    return data[start : data.find(b"\0", start)].decode()


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return done.stdout + done.stderr


def assemble(ptxas: str, ptx: Path, cubin: Path, arch: str) -> dict[str, dict[str, int]]:
    """Registers and spilled bytes of every entry function."""
    text = run([ptxas, "-v", f"-arch={arch}", str(ptx), "-o", str(cubin)])
    result: dict[str, dict[str, int]] = {}
    name = ""
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            result[name] = {"registers": 0, "spills": 0}
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            result[name]["spills"] = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            result[name]["registers"] = int(match[1])
    return result


def functions(sass: str) -> dict[str, list[str]]:
    """Lines of every function: instructions, and labels that end in a colon."""
    result: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in sass.splitlines():
        if match := re.match(r"\.text\.(\w+):", line.strip()):
            lines = result.setdefault(match[1], [])
        elif match := re.match(r"(\.L_x_\d+):", line.strip()):
            lines.append(match[1] + ":")
        elif match := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(\S.*?);", line):
            lines.append(match[1])
    return result


def inner_loop(lines: list[str], kind: str) -> list[str]:
    """Of the loops that hold no other, the one with most instructions of this kind."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for i, line in enumerate(lines):
        match = re.match(r"BRA.*?(\.L_x_\d+)", line)
        if match and labels.get(match[1], i) < i:
            loops.append((labels[match[1]], i))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [[line for line in lines[a : b + 1] if not line.endswith(":")] for a, b in innermost]
    return max(bodies, key=lambda body: sum(line.startswith(kind) for line in body), default=[])


def count(body: list[str]) -> dict[str, int]:
    result: dict[str, int] = {}
    for line in body:
        name = line.split()[0].split(".")[0]
        name = KINDS.get(name, name)
        result[name] = result.get(name, 0) + 1
    result["ALU"] = result.get("LOP3", 0) + result.get("IADD", 0)
    return result


def describe(row: dict, body: list[str]) -> dict[str, object]:
    """Instructions for each unit of work in the inner loop, and what that allows an SM a clock."""
    counts = count(body)
    if row["path"] == "b1b1":
        # The carry-save adder counts one word for every two that go in.
        units, macs, unit = 2 * counts.get("POPC", 0), 32, "word"
    elif row["path"] == "int8":
        units, macs, unit = counts.get("IDP", 0), 4, "word"
    else:
        units, macs, unit = counts.get("FFMA", 0), 1, "product"
    if units == 0:
        return {}
    clocks = max([len(body) / ISSUE] + [counts.get(kind, 0) / rate for kind, rate in RATES.items()])
    return {"unit": unit, "each": {k: round(counts[k] / units, 2) for k in SHOWN if k in counts},
            "all": round(len(body) / units, 2), "macs": round(units / clocks * macs)}


def shared_bytes(emit: Path, row: dict, folder: Path) -> str:
    """What the threads of a block share. ptxas sees none of it: a launch says how much."""
    nest = folder / "kernel.html"
    run([str(emit), "kernel", "--list", str(ROOT / "kernels.json"), "--kernel", row["name"], "--target", "cuda",
         "--function", "kernel", "-o", str(nest)])
    text = html.unescape(re.sub("<[^>]+>", "", nest.read_text()))
    sizes = re.findall(r"allocate \S+?\[u?(?:int|float)32 \* ([^\]]+)\] in GPUShared", text)
    return str(sum(4 * int(size) for size in sizes)) if all(size.isdigit() for size in sizes) else "tile"


def report(rows: list[dict], archs: list[str]) -> str:
    text = ["# CUDA kernels by static count", "",
            "Made by `bench/gpu_static.py` from the emitted objects. Nothing here was timed: registers and spills are ptxas's, "
            "shared memory is what a launch asks for, instructions those of the inner loop as SASS, for each 32-bit word (32 binary or 4 8-bit "
            "products) or float product that a thread adds up. \"MAC/clk/SM\" is what the busiest of these units or the "
            "issue of instructions allows, every load hitting L1. \"tile\": the packed input of 128 outputs' windows, as much as "
            "the layer needs (64 channels, kernel 3, stride 1: 130 positions of two words, 1,040 bytes), at most the 48 KiB that "
            "CUDA grants every kernel, which `tests/cuda` checks of the launches.", ""]
    for arch in archs:
        text += [f"## {arch}", "", "| kernel | registers | spills | shared bytes | inner loop, instructions a unit | in all "
                 "| MAC/clk/SM |", "|---|---:|---:|---:|---|---:|---:|"]
        for row in rows:
            main = row[arch]
            loop = main.get("loop") or {}
            each = ", ".join(f"{v:g} {k}" for k, v in loop.get("each", {}).items())
            text.append(f"| {row['name']} | {main['registers']} | {main['spills']} | {row['shared']} | "
                        f"{each + ' / ' + loop['unit'] if loop else ''} | {loop.get('all', '')} | {loop.get('macs', '')} |")
        text.append("")
    text.append("The kernels of input stages, which precede these in a call, are not in the table; spills are counted in all.\n")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", help="sm_80, ...; may be repeated (default: sm_80, sm_90, sm_100)")
    parser.add_argument("--kernels", type=Path, default=ROOT / "build/release/kernels", help="folder of the objects")
    parser.add_argument("--ptxas", help="the program, where it is not on PATH")
    parser.add_argument("--nvdisasm", help="likewise; without it, no inner loops")
    parser.add_argument("-o", "--output", default=str(ROOT / "bench/results/cuda-static.md"), help="- for the screen")
    options = parser.parse_args()
    archs = options.arch or ["sm_80", "sm_90", "sm_100"]
    ptxas, nvdisasm = find_tool(options.ptxas, "ptxas"), find_tool(options.nvdisasm, "nvdisasm")
    if ptxas is None:
        raise SystemExit("gpu_static.py: ptxas was not found; it comes with the CUDA toolkit (--ptxas PATH)")
    if nvdisasm is None:
        print("nvdisasm was not found: no inner loops (--nvdisasm PATH)", file=sys.stderr)

    rows = [row for row in json.loads((ROOT / "kernels.json").read_text()) if "cuda" in row["targets"]]
    spilled = 0
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            object_file = options.kernels / f"qconv_{row['name']}_cuda.o"
            if not object_file.exists():
                raise SystemExit(f"{object_file} is missing: ./dev build")
            ptx, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
            ptx.write_text(ptx_of(object_file))
            row["shared"] = shared_bytes(options.kernels.parent / "bin/qconvc-emit", row, Path(folder))
            kind = {"b1b1": "POPC", "int8": "IDP"}.get(row["path"], "FFMA")
            for arch in archs:
                entries = assemble(ptxas, ptx, cubin, arch)
                spilled += sum(entry["spills"] for entry in entries.values())
                code = functions(run([nvdisasm, "-c", str(cubin)])) if nvdisasm else {}
                loops = {name: inner_loop(code.get(name, []), kind) for name in entries}
                # The kernel of the sums; the others of a call prepare its input.
                name = max(entries, key=lambda n: (count(loops[n]).get(kind, 0), entries[n]["registers"]))
                row[arch] = entries[name] | {"loop": describe(row, loops[name])}
            print(f"{row['name']}: {len(entries)} kernels", file=sys.stderr)
    text = report(rows, archs) + f"Bytes spilled by any kernel of any architecture: {spilled}.\n"
    if options.output == "-":
        print(text)
    else:
        Path(options.output).write_text(text)
    if spilled > 0:
        raise SystemExit("gpu_static.py: a kernel spills registers")


if __name__ == "__main__":
    main()
