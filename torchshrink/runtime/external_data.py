"""Weights that an ONNX file keeps in other files: beside it, by a plain name, and nowhere else.

ONNX Runtime and `onnx` read whatever file a model names. The names are found here before either opens it, without
importing anything: a process that measures memory must not hold `onnx`, nor the file's content. Field numbers are those
of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, the encoding is https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from torchshrink.errors import ModelError

# Message -> field -> message in it: every way that leads from a model to a tensor's external data.
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # of an entry
_LONGEST_ENTRY = 65536
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check(path: Path) -> None:
    """Refuse an ONNX file that keeps weights anywhere but in files beside it.

    Raises:
        ModelError: Naming what it wants to read, or when it is not ONNX.
    """
    try:
        with path.open("rb") as file:
            found = set(_locations(file, path.stat().st_size))
    except (ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read as ONNX ({error}): export it again, or copy it again") from error
    for location in sorted(found):
        beside = path.parent / location
        is_plain = location not in ("", ".", "..") and not set(location) & set("/\\\0")
        if not is_plain or beside.is_symlink():
            raise ModelError(
                f"{path} keeps weights in {location[:200]!r}: only a file beside it, by its plain name, is read"
            )


def _locations(file: BinaryIO, size: int) -> Iterator[str]:
    """Yield the name of every file that tensors of a model are kept in."""
    waiting = [("model", 0, size)]
    while waiting:
        kind, start, end = waiting.pop()
        if kind == "entry":
            yield from _location(file, start, end)
            continue
        fields = _FIELDS[kind]
        for number, begin, stop in _parts(file, start, end):
            if number in fields:
                waiting.append((fields[number], begin, stop))


def _location(file: BinaryIO, start: int, end: int) -> Iterator[str]:
    """Yield the values of an entry when one of its keys is ``location``."""
    if end - start > _LONGEST_ENTRY:
        raise ValueError("a description of its external data is too long")
    texts: dict[int, list[bytes]] = {_KEY: [], _VALUE: []}
    for number, begin, stop in _parts(file, start, end):
        if number in texts:
            file.seek(begin)
            texts[number].append(file.read(stop - begin))
            file.seek(stop)
    if b"location" in texts[_KEY]:
        yield from (text.decode(errors="replace") for text in texts[_VALUE] or [b""])


def _parts(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of every field of a message that has a length."""
    file.seek(start)
    while (place := file.tell()) < end:
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _varint(file)
        elif kind == _BYTES:
            length = _varint(file)
            begin = file.tell()
            if begin + length > end:
                raise ValueError(f"a field at byte {place} is longer than what holds it")
            yield number, begin, begin + length
            file.seek(begin + length)
        elif kind in (_FIXED64, _FIXED32):
            file.seek(8 if kind == _FIXED64 else 4, 1)
        else:
            raise ValueError(f"there is no field at byte {place}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends too early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value & (1 << 64) - 1
    raise ValueError("a number in it is too long")
