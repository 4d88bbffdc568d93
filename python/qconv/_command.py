"""The qconvc command of an installed package."""

import os
import sys
from pathlib import Path


def main() -> None:
    program = Path(__file__).parent / "bin" / "qconvc"
    try:
        os.execv(program, ["qconvc", *sys.argv[1:]])
    except FileNotFoundError:
        sys.exit(f"{program} is missing: `pip install .` in qconv's repository builds it")
