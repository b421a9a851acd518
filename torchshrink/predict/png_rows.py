"""Read a PNG image a few rows at a time: Pillow would hold all of it, and 4 bytes for each RGB pixel.

Nothing here imports torch: it is part of the process that predicts.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchshrink.predict import streams

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by type of colour; a palette (3) is no input of a model
_BYTES_AT_ONCE = 1 << 16  # of the file
_STRIP_BYTES = 1 << 18  # of pixels


def open_source(path: Path, channels: int, dims: int, raw: str) -> streams.Source:
    """Do as `torchshrink.predict.streams.open_source`, but read 8-bit PNG images that are not interlaced row by row."""
    source = streams.open_source(path, channels, dims, raw)
    if isinstance(source, streams.ImageSource) and _header(path) is not None:
        return PngSource(path, channels, dims, raw)
    return source


class PngSource(streams.ImageSource):
    """A PNG image of which only the rows that are asked for are in memory."""

    def samples(self) -> Iterator[streams.Rows]:
        """Yield how to read the image, see `torchshrink.predict.streams.Source`; rows are best asked for in order."""
        yield _Window(self).read

    def strips(self) -> Iterator[NDArray[Any]]:
        """Yield ``[C, rows, W]`` from the top of the image to its end.

        A PNG's rows are packed as one stream, and most are stored as differences from the row above (W3C PNG, third
        edition, section 9). So a strip is given to Pillow as a PNG of its own, whose first row is the last one of the
        strip before.
        """
        header = _header(self._path)
        assert header is not None
        width, height, colour = header
        length = width * _CHANNELS[colour]
        at_once = max(1, _STRIP_BYTES // length)
        with self._opened(), self._path.open("rb") as file:  # the former reports what is wrong with the file
            pixels = _Buffer(_unpacked(file))
            above = bytes(length)
            for first in range(0, height, at_once):
                count = min(at_once, height - first)
                filtered = pixels.take(count * (length + 1))
                if first + count == height:
                    pixels.finish()
                strip = _decoded(b"\0" + above + filtered, width, count + 1, colour)
                above = np.asarray(strip)[-1].tobytes()
                yield self._pixels(strip.crop((0, 1, width, count + 1)))


class _Window:
    """The rows of an image from one that was asked for to the last one that was decoded."""

    def __init__(self, source: PngSource) -> None:
        self._source = source
        self._strips = source.strips()
        self._rows: list[NDArray[Any]] = []  # one array of all that are held, nothing at first
        self._first = 0

    def read(self, first: int, end: int) -> NDArray[Any]:
        """Return rows ``first`` to ``end``, ``[C, rows, W]``."""
        if first < self._first:
            self._strips, self._rows, self._first = self._source.strips(), [], 0
        while self._first + self.held < end:
            rows = np.concatenate([*self._rows, next(self._strips)], axis=1)
            above = min(first - self._first, rows.shape[1])
            self._rows, self._first = [rows[:, above:].copy()], self._first + above
        return self._rows[0][:, first - self._first : end - self._first]

    @property
    def held(self) -> int:
        """Return how many rows are in memory."""
        return int(self._rows[0].shape[1]) if self._rows else 0


def _header(path: Path) -> tuple[int, int, int] | None:
    """Return width, height and type of colour of a PNG that can be read by rows; ``None`` for any other file."""
    with path.open("rb") as file:
        start = file.read(33)
    if len(start) < 33 or start[:8] != _SIGNATURE or start[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", start[16:29])
    return (width, height, colour) if depth == 8 and colour in _CHANNELS and interlace == 0 else None


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of all IDAT chunks, unpacked, in small parts."""
    packer = zlib.decompressobj()
    for packed in _packed(file):
        while packed and not packer.eof:
            yield packer.decompress(packed, _STRIP_BYTES)
            packed = packer.unconsumed_tail
    yield packer.flush()


def _packed(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(len(_SIGNATURE))
    while True:
        start = file.read(8)
        if len(start) < 8 or start[4:] == b"IEND":
            return
        left, name = struct.unpack(">I4s", start)
        check = zlib.crc32(name)
        while left:
            part = file.read(min(left, _BYTES_AT_ONCE))
            if not part:
                return
            left, check = left - len(part), zlib.crc32(part, check)
            if name == b"IDAT":
                yield part
        if file.read(4) != struct.pack(">I", check):
            raise OSError(f"broken PNG file: the checksum of a chunk {name.decode('ascii', 'replace')} is wrong")


class _Buffer:
    """Parts of a stream, taken in other lengths."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._kept = parts, bytearray()

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        while len(self._kept) < length:
            part = next(self._parts, None)
            if part is None:
                raise OSError("image file is truncated")
            self._kept += part
        taken = bytes(self._kept[:length])
        del self._kept[:length]
        return taken

    def finish(self) -> None:
        """Read to the end of the stream, which checks it."""
        for _ in self._parts:
            pass


def _decoded(filtered: bytes, width: int, height: int, colour: int) -> Image.Image:
    """Let Pillow undo the filters of rows."""
    content = io.BytesIO()
    content.write(_SIGNATURE)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b"")):
        content.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    content.seek(0)
    image = Image.open(content, formats=["PNG"])
    image.load()
    return image
