"""Images and arrays read, and masks written, a few rows at a time: no float copy of a whole image ever exists.

A signal is an image of one row. Nothing here imports torch: it is part of the process that predicts.
"""

from __future__ import annotations

import functools
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from torchshrink.errors import DataError, ShrinkError
from torchshrink.files import atomic

IMAGE_ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
ARRAY_ENDINGS = (".npz", ".npy")

# As `torchshrink.data.folder`, which needs torch: the kinds of images that training takes.
_KINDS = {
    **dict.fromkeys(("1", "L", "LA"), "8-bit gray"),
    **dict.fromkeys(("RGB", "RGBA"), "8-bit RGB"),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), "16-bit gray"),
}
_FORMATS = ("PNG", "TIFF", "JPEG")  # Pillow would run programs for some others
_MOST_PIXELS = 8 * 1032  # in a byte of a PNG file: deflate packs 1032 bytes into one (https://zlib.net/zlib_tech.html)
_IMAGE_RAW = {"uint8 / 255": 255, "uint16 / 65535": 65535}  # by what images are divided
_npy: Any = np.lib.format  # typed from NumPy 2 on
_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): _npy.read_array_header_1_0,
    (2, 0): _npy.read_array_header_2_0,
}
Rows = Callable[[int, int], NDArray[Any]]
Level = Callable[[NDArray[Any]], NDArray[np.float32]]


class Source(Protocol):
    """A file of samples that all measure ``[channels, height, width]``."""

    count: int
    height: int
    width: int
    own_size: tuple[int, int]  # height and width of the file's images, which its masks have
    divisor: int  # by what training divides the values

    def samples(self) -> Iterator[Rows]:
        """Yield a function for each sample that returns its rows ``first`` to ``end``, ``[C, rows, W]``, as stored.

        Use it before the next sample is asked for.
        """


def open_source(path: Path, channels: int, dims: int, raw: str) -> Source:
    """Check a file's header against what the model takes and return where its samples come from.

    Args:
        path: A PNG, TIFF, JPEG, .npy or .npz file.
        channels: Of the model's input.
        dims: 2 for images, 1 for signals.
        raw: What the model was trained on, see `torchshrink.task.Normalization`.

    Raises:
        DataError: When the file cannot be read or is of another kind.
    """
    if path.suffix.lower() in ARRAY_ENDINGS:
        return ArraySource(path, channels, dims, raw)
    return ImageSource(path, channels, dims, raw)


class ImageSource:
    """One image; Pillow holds it as 1 byte per pixel for 8-bit gray, 2 for 16-bit gray, 4 for RGB."""

    count = 1

    def __init__(self, path: Path, channels: int, dims: int, raw: str, colour: str = "") -> None:
        self._path = path
        if dims != 2:
            raise DataError(f"{path} is an image, but the model takes signals: store them as x of an .npz file")
        with self._opened() as image:
            kind = _KINDS.get(image.mode)
            if kind is None:
                raise DataError(f"{path} has Pillow mode {image.mode}: save it as 8-bit gray, 16-bit gray or 8-bit RGB")
            if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{path} has several pages: save each page as a file of its own")
            self.width, self.height = image.size
            self.own_size = self.height, self.width
            is_png = image.format == "PNG"
        size = path.stat().st_size
        if is_png and self.width * self.height > _MOST_PIXELS * size:
            raise DataError(
                f"{path} claims {self.height} rows of {self.width} pixels, more than its {size} bytes can hold: copy "
                "it again"
            )
        becomes = {"gray": 1, "rgb": 3} if kind != "16-bit gray" else {}
        found = becomes.get(colour, 3 if kind.endswith("RGB") else 1)
        if found != channels:
            raise DataError(
                f"{path} is {kind} with {found} channel{'s' * (found > 1)}, but the model was trained on {channels}: "
                f"save it as {'gray' if channels == 1 else 'RGB' if channels == 3 else 'x of an .npz file'}"
            )
        own = "uint16 / 65535" if kind == "16-bit gray" else "uint8 / 255"
        if raw != own:
            advice = "store it as x of an .npz file" if raw not in _IMAGE_RAW else "save it with as many bits"
            raise DataError(f"{path} holds {own}, but the model was trained on {raw}: {advice}")
        self.divisor = _IMAGE_RAW[own]

    def samples(self) -> Iterator[Rows]:
        """Yield how to read the image, see `Source`."""
        with self._opened() as image:
            image.load()
            yield lambda first, end: self._pixels(image.crop((0, first, self.width, end)))

    def _pixels(self, part: Image.Image) -> NDArray[Any]:
        """Return ``[C, H, W]`` in the image's own type."""
        pixels = np.asarray(part.convert("L") if part.mode == "1" else part)
        if part.mode in ("LA", "RGBA"):
            if (pixels[..., -1] != 255).any():
                raise DataError(f"{self._path} has transparent parts: save it without an alpha channel")
            pixels = pixels[..., 0] if part.mode == "LA" else pixels[..., :3]
        elif part.mode == "I" and (pixels.min() < 0 or pixels.max() > 65535):
            raise DataError(f"{self._path} holds values beyond 0 to 65535: save it with 16 bits")
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        with _reading(self._path, "save it again"), Image.open(self._path, formats=_FORMATS) as image:
            yield image


class ArraySource:
    """The samples of ``x`` of an .npz file, or of an .npy file, one in memory at a time.

    Args:
        path: See `open_source`, as the next three.
        channels: See there.
        dims: See there.
        raw: See there.
        level: What is done to every sample, see `torchshrink.data.preparation.Preparation.levelled`.
    """

    def __init__(self, path: Path, channels: int, dims: int, raw: str, level: Level | None = None) -> None:
        self._path, self._level = path, level
        with self._opened() as stream:
            shape, self._dtype = self._header(stream)
        if self._dtype.kind not in "biuf" or 0 in shape:
            raise DataError(f"{path} holds {self._dtype} of shape {list(shape)}: store an array of real numbers")
        if len(shape) == dims + 1 and channels == 1:
            shape = (shape[0], 1, *shape[1:])
        if len(shape) != dims + 2 or shape[1] != channels:
            expected = f"[N, {channels}, {'L' if dims == 1 else 'H, W'}]"
            raise DataError(f"{path} holds x of shape {list(shape)}, but the model takes {expected}: store it so")
        self.count, self._channels, self.width = shape[0], channels, shape[-1]
        self.height = shape[2] if dims == 2 else 1
        self.own_size = self.height, self.width
        is_bytes = self._dtype == np.uint8
        if is_bytes != (raw == "uint8 / 255") or raw == "uint16 / 65535":
            own = "uint8 / 255" if is_bytes else str(self._dtype)
            raise DataError(f"{path} holds {own}, but the model was trained on {raw}: store it as that")
        self.divisor = 255 if is_bytes and level is None else 1  # a level is the same of any multiple

    def samples(self) -> Iterator[Rows]:
        """Yield how to read each sample, see `Source`."""
        with self._opened() as stream:
            self._header(stream)
            for number in range(self.count):
                sample = self._next(stream, number)
                yield functools.partial(_rows, sample if self._level is None else self._level(sample))

    def _next(self, stream: IO[bytes], number: int) -> NDArray[Any]:
        shape = (self._channels, self.height, self.width)
        length = int(np.prod(shape)) * self._dtype.itemsize
        content = stream.read(length)
        if len(content) != length:
            raise DataError(f"{self._path} ends in sample {number}: write it again with numpy.save or numpy.savez")
        sample = np.frombuffer(content, self._dtype).reshape(shape)
        largest = np.finfo(np.float32).max
        if self._dtype.kind == "f" and not (np.abs(sample) <= largest).all():
            raise DataError(
                f"{self._path}: sample {number} of x holds NaN, infinity or values beyond float32: repair or drop it"
            )
        return sample

    def _header(self, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = _npy.read_magic(stream)
        if version not in _HEADERS:
            raise DataError(f"{self._path} has a header of version {version}: write it again with numpy.save")
        shape, is_fortran, dtype = _HEADERS[version](stream)
        if is_fortran and len(shape) > 1:
            raise DataError(f"{self._path} is in Fortran order: write numpy.ascontiguousarray(x)")
        return shape, dtype

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with _reading(self._path, "write it again with numpy.save or numpy.savez"), ExitStack() as stack:
            if self._path.suffix.lower() == ".npy":
                yield stack.enter_context(self._path.open("rb"))
                return
            archive = stack.enter_context(zipfile.ZipFile(self._path))
            names = archive.namelist()
            if "x.npy" not in names:
                held = ", ".join(name.removesuffix(".npy") for name in names) or "nothing"
                raise DataError(f"{self._path} lacks x, it has {held}: store the samples as x")
            yield stack.enter_context(archive.open("x.npy"))


def _rows(sample: NDArray[Any], first: int, end: int) -> NDArray[Any]:
    return sample[:, first:end]


@contextmanager
def _reading(path: Path, advice: str) -> Iterator[None]:
    """Report whatever a reader finds wrong with a file as DataError."""
    try:
        yield
    except ShrinkError:
        raise
    except Exception as error:  # whatever the bytes happen to mean
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is empty or no PNG, TIFF or JPEG" if unknown else " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}): {advice}") from error


class PngFile:
    """An 8-bit gray PNG of which rows are written in order; a context manager, like those below.

    Source: W3C PNG (third edition), 5 and 11.2; every row has filter 0, which suits masks.
    """

    def __init__(self, path: Path, height: int, width: int) -> None:
        self._file = path.open("wb")
        self._packer = zlib.compressobj(6)
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self._chunk(b"IDAT", self._packer.flush())
                self._chunk(b"IEND", b"")
        finally:
            self._file.close()

    def write(self, rows: NDArray[np.uint8]) -> None:
        """Append rows ``[rows, width]``."""
        filtered = np.pad(rows, ((0, 0), (1, 0)))
        if data := self._packer.compress(filtered.tobytes()):
            self._chunk(b"IDAT", data)

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


class NpyFile:
    """An array in .npy format of which rows are written in any order."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: Any, planes: int, height: int) -> None:
        self._file, self._dtype, self._planes, self._height = file, np.dtype(dtype), planes, height
        self._width = shape[-1]
        header = {"descr": _npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        _npy.write_array_header_1_0(file, header)
        self._start = file.tell()

    def write(self, sample: int, first: int, rows: NDArray[Any]) -> None:
        """Write rows ``[planes, rows, width]`` of a sample, from row ``first`` on."""
        for plane, values in enumerate(rows):
            row = (sample * self._planes + plane) * self._height + first
            self._file.seek(self._start + row * self._width * self._dtype.itemsize)
            self._file.write(np.ascontiguousarray(values, self._dtype).data)


class Sink(Protocol):
    """Where masks of one source go."""

    def write(self, sample: int, first: int, masks: NDArray[np.bool_]) -> None:
        """Write rows ``[K, rows, W]`` of a sample, from row ``first`` on, in order."""


class _Images:
    def __init__(self, files: list[PngFile]) -> None:
        self._files = files

    def write(self, sample: int, first: int, masks: NDArray[np.bool_]) -> None:  # noqa: ARG002  # rows come in order
        for file, rows in zip(self._files, masks, strict=True):
            file.write(rows * np.uint8(255))


@contextmanager
def image_masks(paths: list[Path], source: Source) -> Iterator[Sink]:
    """Write masks as PNG files of 0 and 255, one per class; all appear when the block ends well."""
    with ExitStack() as stack:
        temporary = [stack.enter_context(atomic(path)) for path in paths]
        with ExitStack() as inner:
            yield _Images([inner.enter_context(PngFile(path, *source.own_size)) for path in temporary])


@contextmanager
def array_masks(path: Path, shape: tuple[int, ...], source: Source) -> Iterator[Sink]:
    """Write masks as ``y`` of an .npz file, uint8 of 0 and 1, ``[N, K, *size]``, as training takes them."""
    with atomic(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as spool:
        yield NpyFile(spool, shape, np.uint8, shape[1], source.own_size[0])
        spool.seek(0)
        member = zipfile.ZipInfo("y.npy")
        member.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(temporary, "w") as archive, archive.open(member, "w", force_zip64=True) as stream:
            shutil.copyfileobj(spool, stream)


@contextmanager
def probabilities(path: Path, shape: tuple[int, ...], planes: int, source: Source) -> Iterator[NpyFile]:
    """Write probabilities as a float32 .npy file."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        yield NpyFile(file, shape, np.float32, planes, source.own_size[0])
