"""Lets PyTorch's wheel run on a machine without the CUDA libraries that it asks for.

The wheel on PyPI is linked against cuBLAS, cuDNN and a dozen more, 4.5 GB installed, of which a CPU never calls one.
This puts libraries of the same names beside PyTorch's own, whose functions only abort: enough for the loader. The small
CUDA runtime is a real one (PyTorch's start-up registers its kernels there).

usage: python light_torch.py FOLDER     (torch/lib of an installation made with pip install --no-deps torch)
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# Symbols of these libraries carry no version, or another one than their library's name.
PREFIXES = {"nccl": "libnccl.so", "cusparseLt": "libcusparseLt.so", "cuFile": "libcufile.so"}
VERSIONS = {"NVSHMEM": "libnvshmem_host.so"}


def readelf(option: str, library: Path) -> list[str]:
    return subprocess.run(
        ["readelf", "-W", option, library], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def missing_libraries(folder: Path) -> set[str]:
    """Names that PyTorch's libraries need and that are nowhere in the installation."""
    present = {path.name for path in folder.parent.parent.rglob("*.so*")}
    needed = set()
    for library in folder.glob("*.so"):
        needed |= {match[1] for line in readelf("-d", library) if (match := re.search(r"NEEDED.*\[(.*)\]", line))}
    # libcuda.so.1 is the driver's, opened on demand; the rest belong to the system.
    return {name for name in needed - present if re.match(r"lib(cu|nv|nccl)", name) and name != "libcuda.so.1"}


def undefined_symbols(folder: Path, missing: set[str]) -> dict[str, set[tuple[str, str]]]:
    """(symbol, version) that each missing library should have."""
    symbols: dict[str, set[tuple[str, str]]] = defaultdict(set)
    by_stem = {name[: name.index(".so") + 3]: name for name in missing}
    for library in folder.glob("*.so"):
        for line in readelf("--dyn-syms", library):
            fields = line.split()
            if len(fields) < 8 or fields[6] != "UND":
                continue
            name, _, version = fields[7].partition("@")
            stem = VERSIONS.get(version) or next((s for p, s in PREFIXES.items() if name.startswith(p)), None)
            home = version if version in missing else by_stem.get(stem or "")
            if home:
                symbols[home].add((name, version))
    return symbols


def write_library(path: Path, symbols: set[tuple[str, str]]) -> None:
    versions = defaultdict(list)
    for name, version in sorted(symbols):
        versions[version].append(name)
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch, "stub.c"), Path(scratch, "versions.map")
        source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name, _ in sorted(symbols)))
        script.write_text(
            "".join(f"{version} {{ {'; '.join(names)}; }};\n" for version, names in versions.items() if version)
        )
        command = ["cc", "-shared", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}", "-o", path, source]
        if script.read_text():
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    missing = missing_libraries(folder)
    symbols = undefined_symbols(folder, missing)
    for name in sorted(missing):
        write_library(folder / name, symbols[name])


if __name__ == "__main__":
    main()
