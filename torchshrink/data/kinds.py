"""What a stored truth says a task is: segmentation, several classes, one class, numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import DataError

TYPES: dict[str, Any] = {
    "segmentation": np.uint8,
    "multiclass": np.int64,
    "classification": np.int64,
    "regression": np.float32,
    "reconstruction": np.float32,
}
MASKS = {
    "segmentation": "[N, K, *size]",
    "multiclass": "[N, *size]",
    "classification": "[N]",
    "regression": "[N, K]",
    "reconstruction": "[N, C, *size]",
}
LEFT_OUT = -100  # the class number that torch's cross-entropy leaves out
_FOREGROUND = (1, 255, 65535)
_SHOWN = 5  # values quoted in a message


def is_label(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Return whether ``y`` has a number or a row for each sample, rather than a mask."""
    return y.ndim == 1 or (y.ndim == 2 and y.shape[1:] != x.shape[-1:])


def of_labels(y: NDArray[Any]) -> str:
    """Return what labels ``[N]`` or ``[N, K]`` are: numbers with a point a regression, whole ones class numbers."""
    if y.dtype.kind == "f":
        return "regression"
    return "classification" if y.ndim == 1 or y.shape[1] == 1 else "regression"


def of_masks(y: NDArray[Any]) -> str:
    """Return what masks ``[N, K, *size]`` are: whole numbers beyond 0 and 1 in one mask per sample are classes."""
    is_one = y.shape[1] == 1 and y.dtype.kind in "iu"
    return "multiclass" if is_one and not is_binary(values(y)) else "segmentation"


def values(arrays: NDArray[Any]) -> NDArray[Any]:
    """Return all values that occur, sorted, looking at one sample after the other."""
    if arrays.ndim == 1:
        arrays = arrays[None]
    found: NDArray[Any] = np.unique(arrays[0])
    for array in arrays[1:]:
        new = np.unique(array)
        if not np.array_equal(new, found):
            found = np.union1d(found, new)
    return found


def is_binary(found: NDArray[Any]) -> bool:
    """Return whether values are 0 and one of those that stand for foreground."""
    if len(found) == 0:
        return True
    top = found[-1]
    return bool((top == 0 or top in _FOREGROUND) and np.isin(found, (0, top)).all())


def count_classes(found: Iterable[int], classes: int | None, what: str, say: str = "") -> int:
    """Return how many classes there are, when every number from 0 on occurs or ``classes`` says it.

    Args:
        found: The class numbers that occur anywhere in the data.
        classes: What the user said.
        what: What errors call the place that holds them, with its verb: ``masks of here hold``.
        say: What the user does when some occur nowhere; by default an option of the source.

    Raises:
        DataError: When numbers are below 0, beyond ``classes``, or missing without a word.
    """
    numbers = np.array(sorted(found))
    if len(numbers) == 0:
        raise DataError(f"{what} no class number at all: look at what was to be ignored")
    if numbers[0] < 0:
        raise DataError(f"{what} {shown(numbers)}: number classes from 0 on")
    top = int(numbers[-1])
    if classes is not None:
        if top >= classes:
            raise DataError(f"{what} class {top}, but classes={classes} means the numbers 0 to {classes - 1}")
        return classes
    if len(numbers) != top + 1:
        void = ", or ignore=255 if 255 marks what shall not count" if top == 255 else ""
        raise DataError(
            f"{what} {shown(numbers)}, but classes are the numbers from 0 on, without gaps: "
            f"{say or f'say classes={top + 1}'} if some occur nowhere{void}"
        )
    return top + 1


def shown(found: NDArray[Any]) -> str:
    """Return values as a message quotes them."""
    listed = found[:_SHOWN]
    as_text = [f"{value:g}" for value in listed.astype(float)] if found.dtype.kind == "f" else map(str, listed.tolist())
    return ", ".join(as_text) + (", ..." if len(found) > _SHOWN else "")
