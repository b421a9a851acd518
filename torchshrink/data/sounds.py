"""Sounds: WAV files of 16-bit PCM."""

from __future__ import annotations

import struct
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchshrink.data.images import check_regular
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError

ENDINGS = (".wav",)


class Header(NamedTuple):
    """What a sound says of itself, with the length that its preparation gives it."""

    path: Path
    channels: int
    rate: int
    length: int


def header(path: Path, preparation: Preparation) -> Header:
    """Return what a file says of itself.

    Raises:
        DataError: When it is no WAV file of 16-bit PCM.
    """
    with _opened(path) as file:
        length = preparation.size[0] if preparation.size else file.getnframes()
        return Header(path, file.getnchannels(), file.getframerate(), length)


def read(path: Path, preparation: Preparation) -> NDArray[np.float32]:
    """Return ``[channels, length]`` with the values of the file, -32768 to 32767, or at the preparation's level.

    Raises:
        DataError: When the file is damaged.
    """
    with _opened(path) as file:
        count, channels = file.getnframes(), file.getnchannels()
        values = np.frombuffer(file.readframes(count), "<i2")
    if values.size != count * channels:
        raise DataError(f"{path} holds {values.size // channels} samples but says {count}: copy it again")
    return preparation.levelled(np.ascontiguousarray(preparation.signal(values.reshape(-1, channels).T)))


@contextmanager
def _opened(path: Path) -> Iterator[wave.Wave_read]:
    check_regular(path)
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2:
                raise DataError(f"{path} has {8 * file.getsampwidth()} bits per sample: save it as 16-bit PCM")
            if file.getnframes() == 0:
                raise DataError(f"{path} holds no sound: remove it")
            yield file
    except (wave.Error, EOFError, OSError, ValueError, RuntimeError, struct.error) as error:
        raise DataError(f"{path} cannot be read ({error or 'it ends too soon'}): save it as 16-bit PCM") from error
