"""Files that are inputs: images or sounds, checked against each other by their headers, read one at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchshrink.data import images, sounds
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError
from torchshrink.files import real

ENDINGS = (*images.ENDINGS, *sounds.ENDINGS)
Read = Callable[[Path], NDArray[np.float32]]


@dataclass(frozen=True)
class Inputs:
    """How files are read: ``read(path)`` is float32 ``[C, *size]``, ``raw`` says how its values were stored."""

    read: Read
    raw: str


def files_in(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    """Yield images and sounds below a folder in the order of their names; hidden files are none.

    A folder that links lead to more than once, above all one that it lies in, is looked into once: ``seen``.
    """
    seen = set() if seen is None else seen
    seen.add(real(folder))
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in ENDINGS:
            yield path
        elif path.is_dir() and real(path) not in seen:
            yield from files_in(path, seen)


def alike(paths: Sequence[Path], preparation: Preparation) -> Inputs:
    """Return how files are read, which must be of one kind, and of one size unless the preparation gives them one.

    Raises:
        DataError: Naming two files that differ, or one that cannot be read.
    """
    endings = {path.suffix.lower() in sounds.ENDINGS for path in paths}
    if len(endings) > 1:
        one, other = (next(p for p in paths if (p.suffix.lower() in sounds.ENDINGS) is k) for k in (False, True))
        raise DataError(f"{one} is an image but {other} a sound: keep one kind of file")
    return _sounds(paths, preparation) if endings == {True} else _images(paths, preparation)


def noisy(item: Path, read: Read, amount: float) -> NDArray[np.float32]:
    """Return an input with Gaussian noise that depends on the file's name alone."""
    values = read(item)
    rng = np.random.default_rng(zlib.crc32(item.name.encode()))
    return values + np.float32(amount) * rng.standard_normal(values.shape, np.float32)


def _images(paths: Sequence[Path], preparation: Preparation) -> Inputs:
    if preparation.level:
        raise DataError(f"{paths[0]} is an image, level={preparation.level} is for sounds and arrays: leave it out")
    headers = [images.header(path, preparation) for path in paths]
    first = headers[0]
    for other in headers:
        if other.kind != first.kind:
            is_alike = first.kind[:2] == other.kind[:2]  # in bits, which colour does not change
            cure = "say colour=rgb or colour=gray" if is_alike else "give all of them as many bits"
            raise DataError(
                f"{first.path} is {first.kind} but {other.path} is {other.kind}: save all images in one mode, or {cure}"
            )
        if other.size != first.size:
            raise DataError(
                f"{first.path} measures {first.size} but {other.path} {other.size}: crop or pad to one size, or say "
                f"one, such as size={first.size}&fit=resize"
            )
    return Inputs(partial(_read_image, preparation=preparation), images.raw_of(first.kind))


def _sounds(paths: Sequence[Path], preparation: Preparation) -> Inputs:
    if preparation.colour or preparation.fit not in ("", "crop") or len(preparation.size) > 1:
        raise DataError(f"{paths[0]} is a sound, {preparation} is for images: say size=8000 for 8000 samples at most")
    headers = [sounds.header(path, preparation) for path in paths]
    first = headers[0]
    for other in headers:
        if (other.rate, other.channels) != (first.rate, first.channels):
            raise DataError(
                f"{first.path} has {first.channels} channels at {first.rate} Hz but {other.path} {other.channels} at "
                f"{other.rate} Hz: convert them to one"
            )
        if other.length != first.length:
            raise DataError(
                f"{first.path} has {first.length} samples but {other.path} {other.length}: say a length, such as "
                f"size={max(header.length for header in headers)}"
            )
    return Inputs(partial(sounds.read, preparation=preparation), f"int16 at {first.rate} Hz")


def _read_image(path: Path, preparation: Preparation) -> NDArray[np.float32]:
    return images.as_floats(images.read(path, preparation))
