"""Samples from npz files, and the checks that any pair of arrays must pass."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.data.labelled import LabelledArrays, split
from torchshrink.errors import DataError

_LEAST_HEIGHT = 16  # of [N, H, W]; below, the middle axis of two equal shapes is taken for channels
_SHOWN = 5  # values quoted in a message


def read_npz(path: Path, seed: int) -> tuple[LabelledArrays, LabelledArrays]:
    """Return the train and test samples of one npz file.

    Args:
        path: Holds ``x_train, y_train, x_test, y_test``; or ``x`` and ``y``, of which a random fifth becomes the test
            set. ``class_names`` or ``classes``, a text array with one entry per class, is optional.
        seed: Chooses the test samples of ``x`` and ``y``.

    Raises:
        DataError: When the file or one of its arrays cannot be used, see `from_xy`.
    """
    keys = _keys(path)
    if any(key in keys for key in ("x_train", "y_train", "x_test", "y_test")):
        return _read_pair(path, "x_train", "y_train"), _read_pair(path, "x_test", "y_test")
    return split(_read_pair(path, "x", "y"), 0.2, seed)


def read_npz_pair(folder: Path) -> tuple[LabelledArrays, LabelledArrays]:
    """Return the samples of ``train.npz`` and ``test.npz`` in a folder, both with keys ``x`` and ``y``.

    Raises:
        DataError: When a file is missing or one of its arrays cannot be used, see `from_xy`.
    """
    for name in ("train.npz", "test.npz"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing: put train.npz and test.npz side by side")
    return _read_pair(folder / "train.npz", "x", "y"), _read_pair(folder / "test.npz", "x", "y")


def from_xy(
    x: NDArray[Any], y: NDArray[Any], *, origin: str = "the given arrays", class_names: tuple[str, ...] = ()
) -> LabelledArrays:
    """Return checked samples from inputs and truth of any real type.

    Args:
        x: ``[N, C, L]`` signals or ``[N, C, H, W]`` images, where an axis of one channel may be left out. When ``x``
            and ``y`` are both ``[N, A, B]`` of one shape, they are images of one channel if A is at least 16, and
            signals of A channels otherwise. uint8 is divided by 255; all other types keep their values.
        y: ``[N, K, *size]`` or, for one class, ``[N, *size]``; bool, 0 and 1, or 0 and 255.
        origin: The file or name that error messages point at.
        class_names: One per class, or empty.

    Raises:
        DataError: When the arrays are not numeric, empty, not finite, not binary or do not fit each other.

    >>> from_xy(np.zeros((5, 32, 32)), np.ones((5, 32, 32), bool)).truth.shape
    (5, 1, 32, 32)
    """
    x, y = np.asarray(x), np.asarray(y)
    for key, values in (("x", x), ("y", y)):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{origin}: {key} has type {values.dtype}, store it as an array of real numbers")
        if values.size == 0:
            raise DataError(f"{origin}: {key} is empty (shape {values.shape}), add samples")
        if values.ndim < 2:
            raise DataError(f"{origin}: {key} has shape {values.shape}, expected [N, channels, *size] or [N, *size]")
    x, y = _with_channels(x, y)
    return LabelledArrays(
        inputs=_to_inputs(x, origin),
        truth=_to_truth(y, origin),
        origin=origin,
        raw="uint8 / 255" if x.dtype == np.uint8 else str(x.dtype),
        class_names=class_names,
    )


def _with_channels(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if y.ndim == x.ndim - 1:
        return x, y[:, None]
    if x.ndim == y.ndim - 1:
        return x[:, None], y
    image = x.ndim == 3 and x.shape[1] >= _LEAST_HEIGHT
    if x.shape == y.shape and (x.ndim == 2 or image):
        return x[:, None], y[:, None]
    return x, y


def _to_inputs(x: NDArray[Any], origin: str) -> NDArray[np.float32]:
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        inputs = x.astype(np.float32)
    bad = ~np.isfinite(inputs)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{origin}: x holds {int(bad.sum())} values that are NaN, infinite or beyond float32, "
            f"the first at {list(first)}: repair or drop those samples"
        )
    return inputs


def _to_truth(y: NDArray[Any], origin: str) -> NDArray[np.uint8]:
    found = np.unique(y)
    top = found[-1]
    if top not in (0, 1, 255) or not np.isin(found, (0, top)).all():
        shown = ", ".join(f"{value:g}" for value in found[:_SHOWN].astype(float))
        more = ", ..." if len(found) > _SHOWN else ""
        raise DataError(
            f"{origin}: y holds {shown}{more}, expected only 0 and 1 (or 0 and 255): give each class its own channel"
        )
    truth: NDArray[np.uint8] = np.not_equal(y, 0).astype(np.uint8)
    return truth


def _read_pair(path: Path, x_key: str, y_key: str) -> LabelledArrays:
    keys = _keys(path)
    missing = [key for key in (x_key, y_key) if key not in keys]
    if missing:
        raise DataError(
            f"{path} lacks {' and '.join(missing)}, it has {', '.join(sorted(keys)) or 'no arrays'}: add it"
        )
    named = next((key for key in ("class_names", "classes") if key in keys), None)
    names = tuple(str(name) for name in _load(path, named).ravel()) if named else ()
    origin = str(path) if x_key == "x" else f"{path} ({x_key}, {y_key})"
    return from_xy(_load(path, x_key), _load(path, y_key), origin=origin, class_names=names)


def _keys(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, EOFError, struct.error, NotImplementedError) as error:
        raise DataError(f"{path} is not an npz file or is damaged: write it again with numpy.savez") from error


def _load(path: Path, key: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[key])
    except ValueError as error:
        if "pickle" not in str(error):
            raise DataError(f"{path}: {key} cannot be read ({error}), write it again with numpy.savez") from error
        raise DataError(
            f"{path}: {key} holds Python objects, which are never loaded: store an array of numbers of one shape"
        ) from error
    except Exception as error:  # whatever the bytes happen to mean
        raise DataError(f"{path}: {key} cannot be read ({error}), write it again with numpy.savez") from error
