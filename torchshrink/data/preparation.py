"""How files of different sizes and colours become inputs of one: said in the source, kept with the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchshrink.data import options as texts
from torchshrink.errors import DataError

KEYS = ("size", "fit", "colour", "level")
FITS = ("resize", "crop", "cover")
COLOURS = {"gray": "L", "rgb": "RGB"}
LEVELS = ("peak", "rms")


@dataclass(frozen=True)
class Preparation:
    """What is done to every file before it is an input.

    Attributes:
        size: Width and height of images, or the length of signals; empty where files have one size already.
        fit: ``resize`` stretches or shrinks, masks to their nearest pixels; ``crop`` takes the middle, with zeros
            around what is smaller; ``cover`` scales until the size is covered, then takes the middle.
        colour: ``gray`` or ``rgb`` converts 8-bit images of any kind.
        level: ``peak`` divides every signal by its largest magnitude, ``rms`` by the root of its mean square, so that
            quiet ones are as loud as others, in int8 too.
    """

    size: tuple[int, ...] = ()
    fit: str = ""
    colour: str = ""
    level: str = ""

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        texts = {"size": size, "fit": self.fit, "colour": self.colour, "level": self.level}
        return urlencode({key: text for key, text in texts.items() if text})

    def image(self, image: Image.Image, is_mask: bool = False) -> Image.Image:
        """Return an image of the size, with its own mode; masks keep their values."""
        image = self.rescaled(image, is_mask)
        if self.fit in ("crop", "cover"):
            width, height = self.size[0], self.size[-1]
            left, top = (image.width - width) // 2, (image.height - height) // 2
            return image.crop((left, top, left + width, top + height))
        return image

    def rescaled(self, image: Image.Image, is_mask: bool = False) -> Image.Image:
        """Return an image before anything is cut off it."""
        method = Image.Resampling.NEAREST if is_mask else Image.Resampling.BILINEAR
        return _resized(image, self.scaled(image.width, image.height), method)

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of an image of this size before anything is cut off it."""
        if not self.size or self.fit == "crop":
            return width, height
        size = self.size[0], self.size[-1]
        if self.fit != "cover":
            return size
        scale = max(size[0] / width, size[1] / height)
        return max(size[0], round(width * scale)), max(size[1], round(height * scale))

    def signal(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the middle of ``[C, L]`` at the length, with zeros around a shorter one."""
        if not self.size:
            return values
        length, given = self.size[0], values.shape[-1]
        if given >= length:
            first = (given - length) // 2
            return values[..., first : first + length]
        before = (length - given) // 2
        return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(before, length - given - before)])

    def levelled(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return a signal ``[C, L]`` at its level, all channels by the same factor; silence stays silent."""
        floats = np.asarray(values, np.float32)
        if not self.level or not (peak := np.abs(floats).max()) > 0:
            return floats
        floats = np.divide(floats, peak, dtype=np.float32)
        if self.level == "rms":
            floats /= np.sqrt(np.square(floats).mean())
        return floats


def parse(source: str, options: Mapping[str, str]) -> Preparation:
    """Return what a source's options say.

    Raises:
        DataError: When they cannot be used.
    """
    sides = options.get("size", "").split("x") if "size" in options else []
    if len(sides) > 2 or any(not side.isdecimal() or len(side) > 7 or int(side) == 0 for side in sides):
        raise DataError(f"{source}: cannot use size={options['size']}, say size=96, or size=128x96 for width x height")
    fit, colour = options.get("fit", ""), options.get("colour", "")
    if fit and fit not in FITS:
        raise DataError(f"{source}: there is no fit={fit}, choose {', '.join(FITS)}")
    if fit and not sides:
        raise DataError(f"{source}: fit={fit} needs a size, such as size=96&fit={fit}")
    if colour and colour not in COLOURS:
        raise DataError(f"{source}: there is no colour={colour}, choose {', '.join(COLOURS)}")
    level = options.get("level", "")
    if level and level not in LEVELS:
        raise DataError(f"{source}: there is no level={level}, choose {', '.join(LEVELS)}")
    return Preparation(tuple(map(int, sides)), fit, colour, level)


def stored(text: str) -> Preparation:
    """Return what `Preparation.__str__` wrote."""
    return parse("the model's preparation", texts.parse("the model's preparation", text, KEYS))


def _resized(image: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
    if image.size == size:
        return image
    if image.mode == "1":
        return image.convert("L").resize(size, method).convert("1", dither=Image.Dither.NONE)
    if method == Image.Resampling.NEAREST or not image.mode.startswith("I"):
        return image.resize(size, method)
    # Pillow resamples floating point where it cannot resample 16 bits.
    floats = Image.fromarray(np.asarray(image).astype(np.float32)).resize(size, method)
    return Image.fromarray(np.rint(np.asarray(floats)).astype(np.int32))
