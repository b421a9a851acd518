"""Samples from npz files, and the checks that any pair of arrays must pass."""

from __future__ import annotations

import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchshrink.data import kinds
from torchshrink.data.images import check_regular
from torchshrink.data.labelled import LabelledArrays, LazySamples, check_names, check_shapes
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError

_LEAST_HEIGHT = 16  # of [N, H, W]; below, the middle axis of two equal shapes is taken for channels
_NAMES = ("class_names", "classes")
_CHUNK = 1 << 22
_npy: Any = np.lib.format  # typed from NumPy 2 on
_HEADERS = {(1, 0): _npy.read_array_header_1_0, (2, 0): _npy.read_array_header_2_0}


def read_npz(
    path: Path, *, kind: str | None = None, group: str | None = None, classes: int | None = None, level: str = ""
) -> dict[str, LazySamples]:
    """Return the samples of one npz file, or of a folder with train.npz and test.npz, by part.

    Args:
        path: Holds ``x_train, y_train, x_test, y_test``, or ``x`` and ``y`` for one part named ``""``, as the files of
            a folder do; without any ``y``, samples are unlabelled. ``class_names`` or ``classes``, a text array with
            one entry per class, is optional.
        kind: What ``y`` is, when it does not follow from its shape, type and values; see `from_xy`.
        group: An array with an entry for each sample; samples of one group are never divided between parts.
        classes: How many classes there are, where some occur nowhere.
        level: What every input is divided by, see `torchshrink.data.preparation.Preparation`.

    Raises:
        DataError: When a file is missing or one of its arrays cannot be used, see `from_xy`.
    """
    if path.suffix.lower() != ".npz" or path.is_dir():
        files = {name: path / f"{name}.npz" for name in ("train", "test")}
        for file in files.values():
            if not file.exists():
                raise DataError(f"{file} is missing: put train.npz and test.npz side by side")
        pair = {name: _Arrays(file, "x", "y", group) for name, file in files.items()}
        return _together(pair, kind, classes, level)
    keys = names_in(path)
    if keys & {"x_train", "y_train", "x_test", "y_test"}:
        ends = {"train": "_train", "test": "_test"} | ({"validation": "_validation"} if "x_validation" in keys else {})
    else:
        ends = {"": ""}
    parts = {name: _Arrays(path, f"x{end}", f"y{end}", group and f"{group}{end}") for name, end in ends.items()}
    return _together(parts, kind, classes, level)


def from_xy(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    origin: str = "the given arrays",
    class_names: tuple[str, ...] = (),
    kind: str | None = None,
) -> LabelledArrays:
    """Return checked samples from inputs and truth of any real type.

    Args:
        x: ``[N, C, L]`` signals or ``[N, C, H, W]`` images, where an axis of one channel may be left out. When ``x``
            and ``y`` are both ``[N, A, B]`` of one shape, or ``y`` is no mask, they are images of one channel if A is
            at least 16, and signals of A channels otherwise. uint8 is divided by 255; all other types keep their
            values.
        y: ``[N, K, *size]`` or, for one class, ``[N, *size]``; bool, 0 and 1, or 0 and 255 (segmentation); whole
            numbers ``[N, *size]`` from 0 on (multiclass) or ``[N]`` (classification); numbers with a point ``[N]`` or
            ``[N, K]`` (regression).
        origin: The file or name that error messages point at.
        class_names: One per class, or empty.
        kind: What ``y`` is, when it does not follow from its shape, type and values; ``reconstruction`` never does.

    Raises:
        DataError: When the arrays are not numeric, empty, not finite, not what their kind asks for, or do not fit.

    >>> from_xy(np.zeros((5, 32, 32)), np.ones((5, 32, 32), bool)).truth.shape
    (5, 1, 32, 32)
    >>> from_xy(np.zeros((3, 1, 8)), np.array([0, 2, 1])).kind
    'classification'
    """
    x, y, kind = _laid_out(np.asarray(x), np.asarray(y), kind, origin)
    check_shapes(origin, x, y, kind)
    found = _check_values(y, kind, origin)
    if found and not class_names:
        kinds.count_classes(found, None, f"{origin}: y holds", say="pass class_names")
    return LabelledArrays(
        inputs=_checked_inputs(x, origin),
        truth=_truth(y, kind, is_binary=kind == "multiclass" and found == {0, 1}),
        origin=origin,
        raw=_raw(x),
        class_names=class_names,
        kind=kind,
    )


class _Arrays:
    """The arrays of one part of an npz file."""

    def __init__(self, path: Path, x_key: str, y_key: str, group: str | None) -> None:
        keys = names_in(path)
        is_bare = not keys & {"y", "y_train", "y_test"} and keys <= {x_key, "x_train", "x_test", "x", *_NAMES, group}
        missing = [key for key in (x_key, y_key, *([group] if group else [])) if key not in keys]
        if missing and not (is_bare and missing == [y_key]):
            raise DataError(
                f"{path} lacks {' and '.join(missing)}, it has {', '.join(sorted(keys)) or 'no arrays'}: add it"
            )
        named = next((key for key in _NAMES if key in keys), None)
        self.class_names = tuple(str(name) for name in array_in(path, named).ravel()) if named else ()
        self.origin = str(path) if x_key == "x" else f"{path} ({x_key}, {y_key})"
        self.x: NDArray[Any] = array_in(path, x_key)
        self.y: Any = None if is_bare else array_in(path, y_key)
        self.kind = "unlabelled"
        self.groups = array_in(path, group).ravel() if group else None
        if self.groups is not None and len(self.groups) != len(self.x):
            raise DataError(f"{path}: {group} has {len(self.groups)} entries for {len(self.x)} samples: give each one")

    def samples(self, outputs: int, is_binary: bool, level: str) -> LazySamples:
        """Return the samples, once the arrays are laid out and checked."""
        if self.y is not None:
            check_shapes(self.origin, self.x, self.y, self.kind)
        if self.kind in ("segmentation", "multiclass", "classification"):
            check_names(self.origin, self.class_names, outputs)
        how = Preparation(level=level)
        return LazySamples(
            range(len(self.x)),
            partial(_input_at, x=self.x, how=how),
            partial(_truth_at, y=self.y, kind=self.kind, is_binary=is_binary),
            self.origin,
            _raw(self.x),
            self.kind,
            outputs,
            self.class_names,
            self.groups,
            str(how),
        )


def _together(parts: dict[str, _Arrays], kind: str | None, classes: int | None, level: str) -> dict[str, LazySamples]:
    """Return the samples of all parts, which are of one kind: several classes, if one part shows more than one."""
    for part in parts.values():
        part.x, part.y, part.kind = _laid_out(part.x, part.y, kind, part.origin)
    first, *others = parts.values()
    for other in others:
        if {first.kind, other.kind} == {"segmentation", "multiclass"}:
            return _together(parts, "multiclass", classes, level)
        if first.kind != other.kind:
            raise DataError(
                f"{first.origin} holds a {first.kind} but {other.origin} a {other.kind}: store y as one type, or say "
                "which, such as kind=regression"
            )
    found = set().union(*(_check_values(part.y, part.kind, part.origin) for part in parts.values()))
    names = next((part.class_names for part in parts.values() if part.class_names), ())
    classes = classes or len(names) or None
    outputs = first.y.shape[1] if first.y is not None and first.y.ndim > 1 else 0
    if first.kind in ("multiclass", "classification"):
        outputs = kinds.count_classes(found, classes, f"{first.origin}: y holds")
    is_binary = first.kind == "multiclass" and found == {0, 1}
    return {name: part.samples(outputs, is_binary, level) for name, part in parts.items()}


def _laid_out(x: NDArray[Any], y: Any, kind: str | None, origin: str) -> tuple[NDArray[Any], Any, str]:
    """Return ``x`` with an axis of channels, ``y`` as its kind has it, and the kind."""
    for key, values in (("x", x), ("y", y)):
        if values is None:
            continue
        if values.dtype.kind not in "biuf":
            raise DataError(f"{origin}: {key} has type {values.dtype}, store it as an array of real numbers")
        if values.size == 0:
            raise DataError(f"{origin}: {key} is empty (shape {values.shape}), add samples")
        if values.ndim < (2 if key == "x" else 1):
            raise DataError(f"{origin}: {key} has shape {values.shape}, expected [N, channels, *size] or [N, *size]")
    if y is None or kind == "unlabelled":
        x = _channels_of(x)
        return (x, x, kind) if kind == "reconstruction" else (x, None, "unlabelled")
    if kind in ("classification", "regression") or (kind is None and kinds.is_label(x, y)):
        return _channels_of(x), *_as_labels(y, kind or kinds.of_labels(y), origin)
    if y.ndim < 2:
        raise DataError(f"{origin}: y has shape {y.shape}, but kind={kind} needs [N, channels, *size] or [N, *size]")
    x, y = _with_channels(x, y)
    kind = kind or kinds.of_masks(y)
    if kind == "multiclass" and y.shape[1] == 1:
        y = y[:, 0]
    return x, y, kind


def _as_labels(y: NDArray[Any], kind: str, origin: str) -> tuple[NDArray[Any], str]:
    if kind == "regression":
        return (y[:, None] if y.ndim == 1 else y), kind
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{origin}: y has shape {y.shape}, a class for each sample is [N]: store y.argmax(1)")
    return y, kind


def _channels_of(x: NDArray[Any]) -> NDArray[Any]:
    is_image = x.ndim == 3 and x.shape[1] >= _LEAST_HEIGHT
    return x[:, None] if x.ndim == 2 or is_image else x


def _with_channels(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if y.ndim == x.ndim - 1:
        return x, y[:, None]
    if x.ndim == y.ndim - 1:
        return x[:, None], y
    if x.shape == y.shape:
        return (x[:, None], y[:, None]) if _channels_of(x).ndim > x.ndim else (x, y)
    return x, y


def _check_values(y: NDArray[Any] | None, kind: str, origin: str) -> set[int]:
    """Return the class numbers that occur, of truth that has any.

    Raises:
        DataError: When values are not what their kind asks for.
    """
    if y is None or kind == "reconstruction":
        return set()
    found = kinds.values(y)
    if kind == "regression":
        if not np.isfinite(found).all():
            raise DataError(f"{origin}: y holds NaN or infinity: repair or drop those samples")
        return set()
    if kind == "segmentation":
        if not kinds.is_binary(found):
            raise DataError(
                f"{origin}: y holds {kinds.shown(found)}, expected only 0 and 1 (or 0 and 255): give each class its "
                "own channel, number classes from 0 on in one mask of integers, or say kind=reconstruction"
            )
        return set()
    if kind == "multiclass" and kinds.is_binary(found):
        return {0, 1}
    if found.dtype.kind == "f" and not (np.isfinite(found) & (found == np.rint(found))).all():
        raise DataError(f"{origin}: y holds {kinds.shown(found)}, but class numbers are whole: say kind=regression")
    return {int(value) for value in found}


def _inputs(x: NDArray[Any]) -> NDArray[np.float32]:
    """Return an array, or a part of it, as inputs."""
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = x.astype(np.float32)
    return values


def _truth(y: NDArray[Any], kind: str, is_binary: bool = False) -> NDArray[Any]:
    """Return truth, or a part of it, in the type that its kind has."""
    if kind == "reconstruction":
        return _inputs(y)
    y = np.not_equal(y, 0) if kind == "segmentation" or is_binary else y
    return np.asarray(y).astype(kinds.TYPES[kind])


def _checked_inputs(x: NDArray[Any], origin: str) -> NDArray[np.float32]:
    inputs = _inputs(x)
    bad = ~np.isfinite(inputs)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{origin}: x holds {int(bad.sum())} values that are NaN, infinite or beyond float32, "
            f"the first at {list(first)}: repair or drop those samples"
        )
    return inputs


def _raw(x: NDArray[Any]) -> str:
    return "uint8 / 255" if x.dtype == np.uint8 else str(x.dtype)


def _input_at(index: int, x: NDArray[Any], how: Preparation) -> NDArray[np.float32]:
    return how.levelled(_inputs(np.asarray(x[index])))


def _truth_at(index: int, y: NDArray[Any] | None, kind: str, is_binary: bool) -> NDArray[Any]:
    return np.empty(0, np.float32) if y is None else _truth(np.asarray(y[index]), kind, is_binary)


def names_in(path: Path) -> set[str]:
    """Return the names of the arrays of an npz file.

    Raises:
        DataError: When it is none.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, EOFError, struct.error, NotImplementedError) as error:
        raise DataError(f"{path} is not an npz file or is damaged: write it again with numpy.savez") from error


def array_in(path: Path, key: str) -> NDArray[Any]:
    """Return an array of an npz file: in memory if it is compressed, else on disk, where only what is used is read.

    Raises:
        DataError: When it is damaged, claims what is not there, or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{key}.npy")
            with archive.open(member) as stream:
                dtype, shape, order, start = _header(stream)
                if dtype.hasobject:
                    raise ValueError("pickle")
                if start + int(np.prod(shape, dtype=object)) * dtype.itemsize != member.file_size:
                    raise ValueError(f"its header claims {dtype} of shape {shape}, it has {member.file_size} bytes")
                while stream.read(_CHUNK):  # to its end, where checksums are compared
                    pass
            if member.compress_type == zipfile.ZIP_STORED:
                offset = _start(path, member.header_offset) + start
                return np.memmap(path, dtype, "r", offset, shape, order)
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[key])
    except ValueError as error:
        if "pickle" not in str(error):
            raise DataError(f"{path}: {key} cannot be read ({error}), write it again with numpy.savez") from error
        raise DataError(
            f"{path}: {key} holds Python objects, which are never loaded: store an array of numbers of one shape"
        ) from error
    except MemoryError as error:
        raise DataError(f"{path}: {key} does not fit into memory: write it with numpy.savez, uncompressed") from error
    except Exception as error:  # whatever the bytes happen to mean
        raise DataError(f"{path}: {key} cannot be read ({error}), write it again with numpy.savez") from error


def _header(stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"], int]:
    """Return type, shape and order of an array, and where in its file its values start."""
    version = _npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"its header has version {version}")
    try:
        shape, is_fortran, dtype = _HEADERS[version](stream)
    except Exception as error:  # of the tokenizer and others: NumPy reads a header as Python
        raise ValueError(f"its header cannot be read: {' '.join(str(error).split())}") from error
    return dtype, shape, "F" if is_fortran else "C", stream.tell()


def _start(path: Path, header_offset: int) -> int:
    """Return where the content of an archive's member starts.

    Source: PKWARE's APPNOTE, 4.3.7: 30 bytes, then a name and extra fields of the lengths at 26 and 28.
    """
    with path.open("rb") as file:
        file.seek(header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return header_offset + 30 + int(name) + int(extra)
