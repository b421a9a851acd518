"""Sources as their model was trained on them: converted, scaled, levelled; and masks at the sources' own size.

Nothing here imports torch: it is part of the process that predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchshrink.data.preparation import COLOURS, Preparation
from torchshrink.predict import png_rows, streams

_STRIP = 64  # rows that are written at once

Write = Callable[[int, int, NDArray[np.float32]], None]  # of a sample, from a row on, ``[K, rows, W]``


def open_source(path: Path, channels: int, dims: int, raw: str, how: Preparation) -> streams.Source:
    """Do as `torchshrink.predict.streams.open_source`, for a model that was trained on what ``how`` makes of files.

    What was cropped is not cropped here: tiles see images as large as training saw them.
    """
    if path.suffix.lower() in streams.ARRAY_ENDINGS:
        return streams.ArraySource(path, channels, dims, raw, how.levelled if how.level else None)
    if how.colour or (how.size and how.fit != "crop"):
        return PreparedImage(path, channels, dims, raw, how)
    return png_rows.open_source(path, channels, dims, raw)


class PreparedImage(streams.ImageSource):
    """An image in the colours and at the size that training gave it, all of it in memory."""

    def __init__(self, path: Path, channels: int, dims: int, raw: str, how: Preparation) -> None:
        super().__init__(path, channels, dims, raw, how.colour)
        self._how = how
        self.width, self.height = how.scaled(self.width, self.height)

    def samples(self) -> Iterator[streams.Rows]:
        """Yield how to read the image, see `torchshrink.predict.streams.Source`."""
        with self._opened() as image:
            pixels = self._pixels(image).transpose(1, 2, 0)
            plain = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
            if self._how.colour and plain.mode in COLOURS.values():
                plain = plain.convert(COLOURS[self._how.colour])
            ready = self._how.rescaled(plain)
            yield lambda first, end: self._pixels(ready.crop((0, first, self.width, end)))


def at_own_size(source: streams.Source, classes: int, write: Write) -> Write:
    """Return what takes bands of a source as the model saw it, in order, and writes them at the source's own size.

    Values between pixels are interpolated, as those of the image were.
    """
    if source.own_size == (source.height, source.width):
        return write
    height, width = source.own_size
    whole = np.empty((classes, source.height, source.width), np.float32)

    def take(sample: int, first: int, band: NDArray[np.float32]) -> None:
        whole[:, first : first + band.shape[1]] = band
        if first + band.shape[1] < source.height:
            return
        planes = [Image.fromarray(plane) for plane in whole]
        for top in range(0, height, _STRIP):
            bottom = min(top + _STRIP, height)
            box = (0, top * source.height / height, source.width, bottom * source.height / height)
            size = (width, bottom - top)
            strips = [np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box)) for plane in planes]
            write(sample, top, np.stack(strips))

    return take
