"""The one place where training opens images: PNG, TIFF and JPEG, gray or colour, 8 or 16 bits."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from torchshrink.data.preparation import COLOURS, Preparation
from torchshrink.errors import DataError

ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_KINDS = {
    **dict.fromkeys(("1", "L", "LA"), "8-bit gray"),
    **dict.fromkeys(("RGB", "RGBA"), "8-bit RGB"),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), "16-bit gray"),
}
_FORMATS = ("PNG", "TIFF", "JPEG")  # Pillow would run programs for some others
_DEEP = "16-bit gray"
_MOST_PIXELS = 1 << 27  # 134 million; Pillow warns from 89 million on and refuses 179 million
_PNG = b"\x89PNG\r\n\x1a\n"
_DEFLATED = 1032  # what one byte of a deflated stream holds at most
_CHUNK = 1 << 20


class Header(NamedTuple):
    """What an image says of itself, or becomes by its preparation."""

    path: Path
    kind: str
    width: int
    height: int

    @property
    def size(self) -> str:
        """As messages quote it."""
        return f"{self.width}x{self.height}"


def header(path: Path, preparation: Preparation, is_mask: bool = False) -> Header:
    """Return the kind and size that a file has once it is prepared.

    Raises:
        DataError: When it is no image of a kind that can be used.
    """
    with opened(path) as image:
        if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{path} has several pages: save each page as a file of its own")
        kind = _kind(path, image.mode, preparation, is_mask)
        width, height = (preparation.size[0], preparation.size[-1]) if preparation.size else image.size
        if width * height > _MOST_PIXELS:
            raise DataError(f"{preparation} is more than {_MOST_PIXELS} pixels: choose a smaller size")
        return Header(path, kind, width, height)


def read(path: Path, preparation: Preparation) -> NDArray[Any]:
    """Return ``[C, H, W]`` as uint8 or uint16.

    Raises:
        DataError: When the file is damaged, or transparent.
    """
    with opened(path, is_whole=True) as image:
        kind = _kind(path, image.mode, preparation, is_mask=False)
        opaque = _opaque(path, image)
        if preparation.colour and kind != _DEEP:
            opaque = opaque.convert(COLOURS[preparation.colour])
        pixels = np.asarray(preparation.image(opaque.convert("L") if opaque.mode == "1" else opaque))
    if kind == _DEEP:
        if pixels.min() < 0 or pixels.max() > 65535:
            raise DataError(f"{path} holds values from {pixels.min()} to {pixels.max()}: save it with 16 bits")
        pixels = pixels.astype(np.uint16)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def read_mask(path: Path, preparation: Preparation) -> NDArray[Any]:
    """Return ``[1, H, W]`` or ``[3, H, W]`` of the stored values; those of a palette are its numbers."""
    with opened(path, is_whole=True) as image:
        plain = image if image.mode == "P" else _opaque(path, image)
        pixels = np.asarray(preparation.image(plain.convert("L") if plain.mode == "1" else plain, is_mask=True))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def as_floats(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return pixels in [0, 1]."""
    values: NDArray[np.float32] = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 65535)
    return values


def raw_of(kind: str) -> str:
    """Return how stored values of a kind of image become inputs."""
    return "uint16 / 65535" if kind == _DEEP else "uint8 / 255"


def _kind(path: Path, mode: str, preparation: Preparation, is_mask: bool) -> str:
    if is_mask and mode == "P":
        return "8-bit gray"
    kind = _KINDS.get(mode)
    if kind == _DEEP and preparation.colour == "rgb" and not is_mask:
        raise DataError(f"{path} is {kind}, which colour=rgb leaves as it is: save it with 8 bits, or leave colour out")
    if preparation.colour and not is_mask and kind != _DEEP:
        return "8-bit gray" if preparation.colour == "gray" else "8-bit RGB"
    if kind is None:
        raise DataError(
            f"{path} has Pillow mode {mode}: save it as 8-bit gray, 16-bit gray or 8-bit RGB, or say colour=rgb or "
            "colour=gray"
        )
    return kind


def _opaque(path: Path, image: Image.Image) -> Image.Image:
    """Return an image without its alpha channel, which must say nothing."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode not in ("LA", "RGBA"):
        return image
    if image.getchannel("A").getextrema()[0] != 255:
        raise DataError(f"{path} has transparent parts: save it without an alpha channel")
    return image.convert(image.mode[:-1])


@contextmanager
def opened(path: Path, is_whole: bool = False, more: tuple[str, ...] = ()) -> Iterator[Image.Image]:
    """Open an image and report whatever is wrong with it, also while it is read, as DataError.

    Args:
        path: Of the file.
        is_whole: Whether its pixels will be read: then the whole file is held against its checksums first.
        more: Formats that are taken besides PNG, TIFF and JPEG, by Pillow's names.
    """
    check_regular(path)
    try:
        if is_whole:
            _check_png(path)
        with Image.open(path, formats=(*_FORMATS, *more)) as image:
            _check_size(path, image.width, image.height)
            yield image
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} claims to have more than {_MOST_PIXELS} pixels: cut it into tiles") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        *first, last = *_FORMATS, *more
        unknown = f"it is empty or no {', '.join(first)} or {last}"
        reason = unknown if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path} cannot be read ({reason}): save it again") from error


def check_regular(path: Path) -> None:
    """Refuse what would be waited for without end, or is no file.

    Raises:
        DataError: When a path is missing, a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise DataError(f"{path} is {what}, not a file: remove it, or put a file there")


def _check_png(path: Path) -> None:
    """Refuse a PNG whose content differs from its checksums, which Pillow lets pass, or cannot fill its size.

    Source: W3C PNG (third edition), sections 5.3 and 11.2.
    """
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return
        held, described = 0, bytes(10)
        while len(start := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", start)
            check, left = zlib.crc32(name), length
            while left and (part := file.read(min(left, _CHUNK))):
                check, left = zlib.crc32(part, check), left - len(part)
                described = part[:10] if name == b"IHDR" else described
            if left == 0 and file.read(4) != struct.pack(">I", check):
                chunk = name.decode("ascii", "replace")
                raise DataError(f"{path} is damaged, the checksum of its chunk {chunk!r} is wrong: copy it again")
            held += length if name == b"IDAT" else 0
    width, height, depth, colour = struct.unpack(">IIBB", described)
    _check_size(path, width, height)
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    if height * (width * bits // 8 + 1) > held * _DEFLATED + _CHUNK:
        raise DataError(
            f"{path} claims to measure {width}x{height}, more than its {held} bytes can hold: save it again"
        )


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise DataError(
            f"{path} claims to measure {width}x{height}, more than {_MOST_PIXELS} pixels: cut it into tiles"
        )
