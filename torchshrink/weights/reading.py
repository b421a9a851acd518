"""What a file or folder of weights holds, as it was saved; no code of its author is run unless the caller says so."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from torchshrink.errors import ModelError
from torchshrink.files import is_inside

ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".tar")  # what torch.save writes
_INDEX = "model.safetensors.index.json"  # names the file of each tensor, where one file would be too large
_SINGLE = ("model.safetensors", "pytorch_model.bin")


def is_foreign(path: Path) -> bool:
    """Return whether `read` is what reads a path: anything but a .safetensors file."""
    return path.is_dir() or path.suffix.lower() in ENDINGS


def read(path: Path, allow_pickle: bool = False) -> Any:
    """Return what ``torch.save`` put into a file, or the tensors by name of a folder as Hugging Face saves models.

    Args:
        path: A file with one of the endings above, or a folder with ``model.safetensors`` (or its parts and their
            index) or ``pytorch_model.bin``.
        allow_pickle: Unpickle what holds more than tensors and plain values, which runs any code of its author.

    Raises:
        ModelError: When it is missing or damaged, or needs ``allow_pickle``.
    """
    if path.is_dir():
        return _folder(path, allow_pickle)
    if not path.is_file():
        raise ModelError(f"no such checkpoint: {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if allow_pickle:
            return _unpickle(path)
        _check_whole(path, error)
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened{_needed(path)}: if you trust its author, pass "
            "--allow-pickle; or save the model's state_dict(), which needs no trust"
        ) from error
    except Exception as error:
        raise _unreadable(path, error) from error


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one .safetensors file; raises as `opened`."""
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary


def opened(path: Path) -> Any:
    """Return one .safetensors file, open.

    Raises:
        ModelError: When it is missing or damaged.
    """
    if not path.is_file():
        raise ModelError(f"no such checkpoint: {path}")
    if path.suffix.lower() in (".onnx", ".tflite"):
        raise ModelError(f"{path} is no checkpoint: give the .safetensors file that it was made from")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or not a safetensors file ({error}): copy or train it again") from error


def _folder(path: Path, allow_pickle: bool) -> Any:
    if (path / _INDEX).is_file():
        return {name: value for part in _parts(path) for name, value in tensors(part).items()}
    for name in _SINGLE:
        if (path / name).is_file():
            return tensors(path / name) if name.endswith(".safetensors") else read(path / name, allow_pickle)
    raise ModelError(f"{path} holds none of {', '.join((*_SINGLE, _INDEX))}: name the file of its weights instead")


def _parts(folder: Path) -> list[Path]:
    """Return the files that a folder's index names, all of them in the folder."""
    path = folder / _INDEX
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (OSError, ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({type(error).__name__}): copy the folder again") from error
    for name in names:
        if not is_inside(folder, name):
            raise ModelError(f"{path} names {name!r}, which is not in its folder: somebody changed it")
    return [folder / name for name in names]


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the pickle's author wrote
        raise ModelError(f"{path} cannot be unpickled: {error}") from error


def _check_whole(path: Path, error: Exception) -> None:
    """Refuse what is no pickle at all, so that nobody is told to trust it."""
    with path.open("rb") as file:
        start = file.read(2)
    if not (zipfile.is_zipfile(path) if start == b"PK" else start[:1] == b"\x80"):
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    if "TorchScript" in str(error):
        return ModelError(f"{path} is TorchScript: save the state_dict() of the module that it was made from")
    return ModelError(
        f"{path} is truncated or not a file of torch.save ({type(error).__name__}): copy or save it again"
    )


def _needed(path: Path) -> str:
    """Say which classes and functions a pickle calls, found without calling them."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of the older format, or broken
        return ""
    return f" (this one calls {', '.join(sorted(names))})" if names else ""
