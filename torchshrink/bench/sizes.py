"""How many bytes a model takes: on disk, compressed, and at the least."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import ModelError

_CHUNK = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS  # zlib writes gzip's header, with a time of 0 and no name


def size_bytes(path: Path | str) -> int:
    """Return the length of a file, or of all files below a folder (a SavedModel).

    Raises:
        ModelError: When there is no such path.
    """
    return sum(file.stat().st_size for file in _files(path))


def gzip_bytes(path: Path | str) -> int:
    """Return the length of a file after ``gzip -9n``; of a folder, that of its files compressed one by one.

    Raises:
        ModelError: When there is no such path.
    """
    return sum(_gzip_bytes(file) for file in _files(path))


def zstd_bytes(path: Path | str) -> int:
    """Return the length of a file after ``zstd -19``; of a folder, that of its files compressed one by one.

    Raises:
        ModelError: When there is no such path.
    """
    import zstandard

    return sum(len(zstandard.ZstdCompressor(level=19).compress(file.read_bytes())) for file in _files(path))


def entropy_bytes(arrays: Iterable[NDArray[Any]]) -> int:
    """Return the Shannon bound of stored weight codes: the least that any coder of single values could reach.

    ``ceil(sum over arrays of n * H / 8)`` with ``H = -sum over distinct values of p * log2(p)`` bits, where ``p`` is
    the share of the array's ``n`` values that are equal to it. Values of int8 arrays are their codes, those of float
    arrays their bit patterns (so -0.0 is not 0.0). All values equal give 0, all 256 codes equally often give ``n``.

    It ignores what a decoder needs besides (the dictionary of values and their shares, the shapes), which for float
    weights that are all different is most of the file. It treats values as independent: a coder that sees patterns,
    such as whole channels of zeros, can go below it.

    Args:
        arrays: The weights as they are stored, one array per tensor, of any shape.

    >>> entropy_bytes([np.array([0, 0, 0, 1], np.int8)] * 8)  # 8 * 4 * 0.8113 bits
    4
    """
    bits = sum(_bits(np.asarray(array)) for array in arrays)
    return math.ceil(round(bits / 8, 6))


def _bits(array: NDArray[Any]) -> float:
    if array.size == 0:
        return 0.0
    values = np.ascontiguousarray(array).ravel()
    if values.dtype.kind == "f":
        values = values.view(f"u{values.dtype.itemsize}")
    counts = np.unique(values, return_counts=True)[1]
    # n * H = n * log2(n) - sum of c * log2(c), with p = c / n
    return float(array.size * np.log2(array.size) - (counts * np.log2(counts)).sum())


def _files(path: Path | str) -> Iterator[Path]:
    path = Path(path)
    if not path.exists():
        raise ModelError(f"no such model file: {path}")
    return iter([path]) if path.is_file() else (file for file in sorted(path.rglob("*")) if file.is_file())


def _gzip_bytes(file: Path) -> int:
    compressor = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    length = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            length += len(compressor.compress(chunk))
    return length + len(compressor.flush())
