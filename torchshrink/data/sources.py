"""One name for every kind of data: what a recipe's ``data:`` and the option ``--data`` accept."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.data import options, places, preparation
from torchshrink.data.build import task_from_arrays
from torchshrink.data.datasets import is_dataset, task_from_datasets
from torchshrink.data.labelled import LabelledArrays, RawSamples, split
from torchshrink.data.synthetic import cells, pulses
from torchshrink.errors import DataError, ShrinkError
from torchshrink.files import real
from torchshrink.task import Normalization, Task
from torchshrink.usercode import place

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PLACE = re.compile(r"(folder|npz|csv):(?=.)")

Arrays = tuple[NDArray[np.float32], NDArray[np.uint8]]

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
    prepared: str = "",
) -> Task:
    """Return the task that ``source`` names.

    Args:
        source: One of

            - ``synthetic:cells`` or ``synthetic:pulses``, with options such as
              ``synthetic:cells?size=64&train=320&test=80`` or ``synthetic:pulses?length=512``;
            - a folder, an ``.npz`` or a ``.csv`` file, with options such as ``folder:PATH?size=96&fit=crop``, see
              `torchshrink.data.places.read`; a random fifth becomes the test set where none is given;
            - ``module:callable``, importable from the current folder too, which returns a Task, or datasets of
              PyTorch's: train and test, or train, validation and test, as a tuple or by these names. They are used as
              they are: the settings below do not apply.
        seed: Chooses test and validation samples and makes synthetic data.
        validation: Size of the validation part as a fraction of the training samples; never fewer than one sample.
        augment: Whether the task carries the default augmentation.
        normalization: That of a model that exists already; by default the training part's own.
        prepared: What a model that exists already was trained on, `torchshrink.task.Task.prepared`; what the source
            says goes first.

    Raises:
        DataError: When there is no such source or it cannot be used.

    >>> task = open_task("synthetic:pulses?length=64&train=20&test=5")
    >>> len(task.train), len(task.validation), len(task.test)
    (18, 2, 5)
    """
    if seed < 0:
        raise DataError(f"seed={seed}: choose a seed of at least 0")
    text = str(source)
    train: RawSamples
    test: RawSamples
    held_out: RawSamples | float = validation
    if text.startswith("synthetic:"):
        name, train, test = _make(text, seed)
    elif isinstance(source, str) and is_callable(text):
        return _call(text)
    else:
        name, parts = _read(source, prepared)
        train, test, held_out = _parted(parts, validation, seed)
    return task_from_arrays(
        name, train, test, seed=seed, validation=held_out, augment=augment, normalization=normalization
    )


def is_callable(source: str) -> bool:
    """Return whether a source of data is ``module:callable``."""
    is_one = not source.startswith("synthetic:") and _CALLABLE.fullmatch(source) is not None
    return is_one and _PLACE.match(source) is None and not Path(source).exists()


def located(source: str) -> tuple[Path | None, str]:
    """Return where data lies, if it lies in a file or folder, and the same source with the absolute path of it."""
    path, query = _place(source)
    if source.startswith("synthetic:") or not os.path.exists(path):
        return None, source
    return path.absolute(), f"{path.absolute()}?{query}" if query else str(path.absolute())


def name_of(source: str) -> str:
    """Return what data is called without looking at it: ``synthetic-cells``, or the stem of a file or folder."""
    place = _PLACE.sub("", source, count=1).partition("?")[0]
    return place.replace(":", "-") if ":" in place and "/" not in place else Path(place).stem


def _place(source: str | Path) -> tuple[Path, str]:
    """Return the path of a source and its options; what exists by its whole name is no path with options."""
    text, query = os.path.expanduser(source), ""  # unlike Path.expanduser, it leaves an unknown ~user alone
    if not os.path.lexists(text):
        text, _, query = _PLACE.sub("", text, count=1).partition("?")
    return Path(os.path.expanduser(text)), query


def _read(source: str | Path, prepared: str) -> tuple[str, Mapping[str, RawSamples]]:
    """Return the name of a folder or file, and its samples by part."""
    path, query = _place(source)
    try:
        found = options.parse(str(source), query, places.KEYS)
        how = preparation.parse(str(source), found)
        if prepared and not str(how):
            how = preparation.stored(prepared)
        name = real(path).stem if path.is_file() else real(path).name
        return name, places.read(path, str(source), found, how)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


def _parted(
    parts: Mapping[str, RawSamples], validation: float, seed: int
) -> tuple[RawSamples, RawSamples, RawSamples | float]:
    """Return training and test samples, and the validation samples or their share."""
    if "" in parts:
        return *split(parts[""], 0.2, seed), validation
    if "test" in parts:
        return parts["train"], parts["test"], parts.get("validation", validation)
    return parts["train"], parts["validation"], validation


def _make(source: str, seed: int) -> tuple[str, LabelledArrays, LabelledArrays]:
    name, _, query = source.removeprefix("synthetic:").partition("?")
    if name not in _SYNTHETIC:
        raise DataError(f"{source}: there is no synthetic {name!r}, choose synthetic:cells or synthetic:pulses")
    make, size_key, size = _SYNTHETIC[name]
    given = options.parse(source, query, (size_key, "train", "test"))
    numbers = {key: options.positive(source, given, key) or 0 for key in given}
    counts = {size_key: size, "train": 320, "test": 80} | numbers
    # Even seeds are training data, odd ones test data: no sample occurs in both, whatever the seed.
    train = make(counts["train"], counts[size_key], 2 * seed)
    test = make(counts["test"], counts[size_key], 2 * seed + 1)
    return name, LabelledArrays(*train, origin=source), LabelledArrays(*test, origin=source)


def _call(source: str) -> Task:
    module_name, _, name = source.partition(":")
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except (ShrinkError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise DataError(
                f"{source}: importing {module_name} failed with {_told(error)}; {places.EXPECTED}"
            ) from error
        function = getattr(module, name, None)
        if not callable(function):
            raise DataError(
                f"{source}: {module_name} has no callable {name}, define a function that returns a Task or datasets"
            )
        try:
            task = function()
        except (ShrinkError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise DataError(
                f"{source} stopped with {_told(error)}: it must return a Task or datasets without arguments"
            ) from error
    return task if isinstance(task, Task) else _from_datasets(source, name, task)


def _from_datasets(source: str, name: str, found: Any) -> Task:
    if isinstance(found, tuple | list) and 2 <= len(found) <= 3 and all(map(is_dataset, found)):
        found = dict(zip(("train", "test") if len(found) == 2 else ("train", "validation", "test"), found, strict=True))
    if not isinstance(found, dict) or not {"train", "test"} <= set(found) <= {"train", "validation", "test"}:
        raise DataError(
            f"{source} returned {type(found).__name__}: it must return a torchshrink.task.Task, or datasets of "
            "PyTorch's as (train, test) or (train, validation, test)"
        )
    return task_from_datasets(**found, name=name)


def _told(error: BaseException) -> str:
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
