"""Checkpoints as trainers write them: the weights of a model among other things, under names with prefixes."""

import argparse
import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# What holds no code and is often saved beside weights.
_HARMLESS = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
# Where trainers put the weights.
_KEYS = ("state_dict", "model_state_dict", "model", "module", "net")


def _read(path: str | os.PathLike[str], unpickle: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=not unpickle)
    except OSError:
        raise
    except Exception as error:  # bytes of any kind raise errors of any kind
        _, refused, rest = str(error).partition("Unsupported global: GLOBAL ")
        if isinstance(error, pickle.UnpicklingError) and refused:
            reason = (
                f"holds an object of {rest.split()[0]}, which only running the file's code would make: save "
                "model.state_dict(), or add --unpickle if you trust the file"
            )
        else:
            reason = f"is no checkpoint that torch.load can read ({type(error).__name__})"
        raise ValueError(f"{path} {reason}") from None


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _state_in(path: str | os.PathLike[str], saved: Any) -> Mapping[str, Tensor]:
    if isinstance(saved, nn.Module):
        return saved.state_dict()
    if _is_state(saved):
        return saved
    if not isinstance(saved, Mapping):
        raise ValueError(f"{path} holds a {type(saved).__name__}; it must be a state_dict, or a dictionary with one")
    for key in _KEYS:
        value = saved.get(key)
        if isinstance(value, nn.Module):
            return value.state_dict()
        if _is_state(value):
            return value
    raise ValueError(f"{path} has no state_dict under {', '.join(_KEYS)}; it has {', '.join(map(str, saved))}")


def _named_alike(state: Mapping[str, Tensor], wanted: set[str]) -> Mapping[str, Tensor]:
    """With the names of the model, if a prefix of all names is what makes them differ: those of DataParallel (module.), of
    torch.compile (_orig_mod.) and of whatever held the model."""
    stripped = dict(state)
    while set(stripped) != wanted:
        prefixes = {name.partition(".")[0] for name in stripped}
        if len(prefixes) != 1 or not all("." in name for name in stripped):
            return state
        stripped = {name.partition(".")[2]: tensor for name, tensor in stripped.items()}
    return stripped


def _some(names: set[str]) -> str:
    listed = ", ".join(sorted(names)[:3])
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str], unpickle: bool = False) -> None:
    """Loads the model's weights. ValueError in one line if they cannot be found or do not fit."""
    own = model.state_dict()
    state = _named_alike(_state_in(path, _read(path, unpickle)), set(own))
    missing, unknown = set(own) - set(state), set(state) - set(own)
    if missing or unknown:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(unknown)}, unknown to it"] * bool(unknown)
        raise ValueError(f"{path} does not fit {type(model).__name__}: it {' and '.join(parts)}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{path} does not fit {type(model).__name__}: {name} has shape {list(tensor.shape)}, not "
                f"{list(own[name].shape)}"
            )
    model.load_state_dict(state)
