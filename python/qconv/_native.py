"""Finds the module that `python -m qconv.native` has compiled of _native.cpp."""

import hashlib
import importlib.util
import os
import sysconfig
from pathlib import Path
from types import ModuleType

import torch

from ._library import PATH

NAME = "qconv_native"
SOURCE = Path(__file__).with_suffix(".cpp")


def headers() -> Path:
    """Of libqconv: installed with the package, or in the source tree."""
    installed = SOURCE.parent / "include"
    return installed if installed.is_dir() else SOURCE.parents[2] / "runtime" / "include"


def path() -> Path:
    """The compiled module: beside libqconv, under a name that says what it was made from and for."""
    digest = hashlib.sha256()
    for source in (SOURCE, headers() / "qconv" / "qconv.h"):
        digest.update(source.read_bytes())
    made_for = f"{torch.__version__}-{sysconfig.get_config_var('SOABI')}-{digest.hexdigest()[:12]}"
    return PATH.parent / f"{NAME}-{made_for}.so"


def _load() -> ModuleType | None:
    if os.environ.get("QCONV_NATIVE") == "0" or not path().exists():
        return None
    specification = importlib.util.spec_from_file_location(NAME, path())
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# None where there is none for this PyTorch, or QCONV_NATIVE=0 does not want it.
MODULE = _load()
