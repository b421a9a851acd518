"""Files with a class or numbers each, or with nothing at all: class folders, flat folders, rows of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.data.inputs import ENDINGS, Read, alike, files_in, noisy
from torchshrink.data.labelled import LazySamples
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError

Item = tuple[Path, Any]  # a file and its truth


def class_folders(roots: Sequence[Path], preparation: Preparation) -> list[LazySamples]:
    """Return the samples of folders that hold a folder of images or sounds for each class.

    Classes are numbered in the order of their names over all roots; files may lie deeper in a class's folder.

    Raises:
        DataError: When a class of a later root is not among those of the first, or files cannot be read.
    """
    found = [
        {folder.name: list(files_in(folder)) for folder in sorted(root.iterdir()) if is_class(folder)} for root in roots
    ]
    numbers = {name: number for number, name in enumerate(sorted(found[0]))}
    for root, classes in zip(roots, found, strict=True):
        for name, paths in classes.items():
            if name not in numbers:
                raise DataError(f"{root / name} is a class that {roots[0]} has not: add samples there, or remove it")
            if not paths:
                raise DataError(f"{root / name} holds no image or sound: put {', '.join(ENDINGS)} files there")
    parts = [[(path, numbers[name]) for name, paths in classes.items() for path in paths] for classes in found]
    return with_labels(parts, roots, "classification", tuple(numbers), preparation)


def is_class(folder: Path) -> bool:
    """Return whether something in a folder is taken for a class."""
    return folder.is_dir() and not folder.name.startswith((".", "__"))


def with_labels(
    parts: Sequence[Sequence[Item]],
    origins: Sequence[Path],
    kind: str,
    class_names: tuple[str, ...],
    preparation: Preparation,
) -> list[LazySamples]:
    """Return files with a class number (classification) or a tuple of numbers (regression), one set for each part."""
    inputs = alike([path for part in parts for path, _ in part], preparation)
    dtype: Any = np.int64 if kind == "classification" else np.float32
    return [
        LazySamples(
            list(part),
            partial(_input, read=inputs.read),
            partial(_label, dtype=dtype),
            str(origin),
            inputs.raw,
            kind,
            len(class_names),
            class_names,
        )
        for part, origin in zip(parts, origins, strict=True)
    ]


def without_labels(
    roots: Sequence[Path], preparation: Preparation, kind: str = "unlabelled", noise: float = 0.0
) -> list[LazySamples]:
    """Return the files of folders, whose truth is nothing, or the file itself (reconstruction).

    Args:
        roots: One folder for each part; files may lie deeper.
        preparation: What is done to every file.
        kind: ``unlabelled`` or ``reconstruction``.
        noise: Standard deviation of the noise that inputs get and truths do not, in units of the inputs.

    Raises:
        DataError: When there is no file, or files cannot be read.
    """
    parts = [list(files_in(root)) for root in roots]
    for root, part in zip(roots, parts, strict=True):
        if not part:
            raise DataError(f"{root} holds no image or sound: put {', '.join(ENDINGS)} files there")
    inputs = alike([path for part in parts for path in part], preparation)
    read_truth: Callable[[Path], NDArray[Any]] = _nothing
    read, count = inputs.read, 0
    if kind == "reconstruction":
        read_truth, count = inputs.read, len(inputs.read(parts[0][0]))
        read = partial(noisy, read=inputs.read, amount=noise) if noise else read
    return [
        LazySamples(part, read, read_truth, str(root), inputs.raw, kind, count)
        for part, root in zip(parts, roots, strict=True)
    ]


def name_part(item: Path | Sequence[Any], number: int) -> str:
    """Return the part of a file's name that ``group=NUMBER`` means: parts are between ``_`` and ``-``, from 1 on.

    Raises:
        DataError: When the name has fewer parts.

    >>> name_part((Path("7_jackson_32.wav"), 7), 2)
    'jackson'
    """
    path = item if isinstance(item, Path) else item[0]
    parts = re.split("[_-]", path.stem)
    if number > len(parts):
        raise DataError(f"{path} has {len(parts)} parts between _ and -, so no group={number}: choose another part")
    return str(parts[number - 1])


def _input(item: Item, read: Read) -> NDArray[np.float32]:
    return read(item[0])


def _label(item: Item, dtype: Any) -> NDArray[Any]:
    return np.asarray(item[1], dtype)


def _nothing(_: Path) -> NDArray[np.float32]:
    return np.empty(0, np.float32)
