"""The qconvc command of an installed package. Apart from qconv, so that it starts without PyTorch."""

import os
import sys
from pathlib import Path


def main() -> None:
    program = Path(__file__).parents[1] / "qconv" / "bin" / "qconvc"
    try:
        os.execv(program, ["qconvc", *sys.argv[1:]])
    except FileNotFoundError:
        sys.exit(f"{program} is missing: `pip install .` in qconv's repository builds it")
