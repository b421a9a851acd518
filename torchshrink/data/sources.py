"""One name for every kind of data: what a recipe's ``data:`` and the option ``--data`` accept."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from torchshrink.data.arrays import read_npz, read_npz_pair
from torchshrink.data.build import task_from_arrays
from torchshrink.data.folder import read_folders
from torchshrink.data.labelled import LabelledArrays, split
from torchshrink.data.synthetic import cells, pulses
from torchshrink.errors import DataError, ShrinkError
from torchshrink.task import Normalization, Task
from torchshrink.usercode import place

_EXPECTED = (
    "expected synthetic:cells, synthetic:pulses, a folder (images and masks, train and test, or train.npz and "
    "test.npz), an .npz file or module:callable"
)
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Arrays = tuple[NDArray[np.float32], NDArray[np.uint8]]
TrainTest = tuple[LabelledArrays, LabelledArrays]

_SYNTHETIC: dict[str, tuple[Callable[[int, int, int], Arrays], str, int]] = {
    "cells": (cells, "size", 64),
    "pulses": (pulses, "length", 512),
}


def open_task(
    source: str | Path,
    *,
    seed: int = 0,
    validation: float = 0.1,
    augment: bool = True,
    normalization: Normalization | None = None,
) -> Task:
    """Return the task that ``source`` names.

    Args:
        source: One of

            - ``synthetic:cells`` or ``synthetic:pulses``, with options such as
              ``synthetic:cells?size=64&train=320&test=80`` or ``synthetic:pulses?length=512``;
            - a folder with ``images/`` and ``masks/``, of which a random fifth becomes the test set, or with ``train/``
              and ``test/`` that each hold both;
            - a folder with ``train.npz`` and ``test.npz``, or one ``.npz`` file, see `read_npz`;
            - ``module:callable``, importable from the current folder too, which returns a Task when called without
              arguments. That task is used as it is: the settings below do not apply.
        seed: Chooses test and validation samples and makes synthetic data.
        validation: Size of the validation part as a fraction of the training samples; never fewer than one sample.
        augment: Whether the task carries the default augmentation.
        normalization: That of a model that exists already; by default the training part's own.

    Raises:
        DataError: When there is no such source or it cannot be used.

    >>> task = open_task("synthetic:pulses?length=64&train=20&test=5")
    >>> len(task.train), len(task.validation), len(task.test)
    (18, 2, 5)
    """
    if seed < 0:
        raise DataError(f"seed={seed}: choose a seed of at least 0")
    text = str(source)
    if text.startswith("synthetic:"):
        name, train, test = _make(text, seed)
    elif isinstance(source, str) and is_callable(text):
        return _call(text)
    else:
        path = Path(os.path.expanduser(source))  # unlike Path.expanduser, it leaves an unknown ~user alone
        try:
            name = path.resolve().stem if path.is_file() else path.resolve().name
            train, test = _read(path, seed)
        except OSError as error:
            raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    return task_from_arrays(
        name, train, test, seed=seed, validation=validation, augment=augment, normalization=normalization
    )


def is_callable(source: str) -> bool:
    """Return whether a source of data is ``module:callable``."""
    is_one = not source.startswith("synthetic:") and _CALLABLE.fullmatch(source) is not None
    return is_one and not Path(source).exists()


def _make(source: str, seed: int) -> tuple[str, LabelledArrays, LabelledArrays]:
    name, _, query = source.removeprefix("synthetic:").partition("?")
    if name not in _SYNTHETIC:
        raise DataError(f"{source}: there is no synthetic {name!r}, choose synthetic:cells or synthetic:pulses")
    make, size_key, size = _SYNTHETIC[name]
    options = {size_key: size, "train": 320, "test": 80} | _options(source, query, (size_key, "train", "test"))
    # Even seeds are training data, odd ones test data: no sample occurs in both, whatever the seed.
    train = make(options["train"], options[size_key], 2 * seed)
    test = make(options["test"], options[size_key], 2 * seed + 1)
    return name, LabelledArrays(*train, origin=source), LabelledArrays(*test, origin=source)


def _options(source: str, query: str, known: tuple[str, ...]) -> dict[str, int]:
    options: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in options:
            raise DataError(f"{source}: {key} stands there twice")
        if key not in known or not value.isdecimal() or not 1 <= int(value[:19]) < 2**31 or len(value) > 19:
            raise DataError(
                f"{source}: cannot use {key}={value}, the options are positive whole numbers {', '.join(known)}"
            )
        options[key] = int(value)
    return options


def _read(path: Path, seed: int) -> TrainTest:
    if path.is_file() and path.suffix.lower() == ".npz":
        return read_npz(path, seed)
    if path.is_file():
        raise DataError(f"{path} is a {path.suffix or 'nameless'} file that cannot be read: {_EXPECTED}")
    if not path.is_dir():
        raise DataError(f"{path} does not exist: {_EXPECTED}")
    if (path / "train.npz").exists() or (path / "test.npz").exists():
        return read_npz_pair(path)
    parts = [path / "train", path / "test"]
    if any(part.is_dir() for part in parts):
        for part in parts:
            if not part.is_dir():
                raise DataError(f"{part} is missing: {path} needs both train and test, each with images and masks")
        train, test = read_folders(*parts)
        return train, test
    if (path / "images").is_dir() or (path / "masks").is_dir():
        return split(read_folders(path)[0], 0.2, seed)
    raise DataError(f"{path} holds none of images, masks, train, test, train.npz and test.npz: {_EXPECTED}")


def _call(source: str) -> Task:
    module_name, _, name = source.partition(":")
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise DataError(f"{source}: importing {module_name} failed with {_told(error)}; {_EXPECTED}") from error
        function = getattr(module, name, None)
        if not callable(function):
            raise DataError(f"{source}: {module_name} has no callable {name}, define a function that returns a Task")
        try:
            task = function()
        except ShrinkError:
            raise
        except Exception as error:
            raise DataError(f"{source} stopped with {_told(error)}: it must return a Task without arguments") from error
    if not isinstance(task, Task):
        raise DataError(f"{source} returned {type(task).__name__}: it must return a torchshrink.task.Task")
    return task


def _told(error: Exception) -> str:
    where = place(error)
    return f"{type(error).__name__} ({' '.join(str(error).split())})" + (f" at {where}" if where else "")


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
