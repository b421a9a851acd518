"""Cut one axis into tiles of a fixed size: what each reads, and which part of its result is kept.

Every result is cropped to the tile's centre instead of averaged with its neighbours: a network that sees no further
than half of the overlap then gives exactly what it would give for the whole image.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import RecipeError

_MOST_ALIGNMENT = 32  # five poolings by 2


@dataclass(frozen=True)
class Tile:
    """One tile along one axis, in samples of the image.

    Attributes:
        start: The first sample that it reads; what it reads beyond the image is reflected.
        keep_from: The first sample whose result is taken from this tile.
        keep_to: The end of these samples.
    """

    start: int
    keep_from: int
    keep_to: int


def plan(size: int, tile: int, overlap: int) -> list[Tile]:
    """Return the tiles of an axis, whose kept parts cover every sample once and in order.

    Tiles start at multiples of the largest power of two that divides ``tile`` (at most 32), because a network that
    pools computes another result for an image moved by less. So neighbours overlap by at least ``overlap``, and the
    last tile may read a few samples beyond the end.

    Args:
        size: Samples of the image along the axis.
        tile: Samples of a tile.
        overlap: The least that neighbours share; each result is kept from the middle of what it shares.

    Raises:
        RecipeError: When the overlap is negative or no smaller than the tile.

    >>> plan(20, 8, 4)
    [Tile(start=0, keep_from=0, keep_to=6), Tile(start=4, keep_from=6, keep_to=10), \
Tile(start=8, keep_from=10, keep_to=14), Tile(start=12, keep_from=14, keep_to=20)]
    """
    if size < 1 or tile < 1:
        raise RecipeError(f"size {size}, tile {tile}: both must be at least 1")
    if not 0 <= overlap < tile:
        raise RecipeError(f"overlap {overlap} does not fit tile {tile}: choose an overlap from 0 to {tile - 1}")
    aligned = _alignment(tile, overlap)
    step = (tile - overlap) // aligned * aligned
    last = -(-max(0, size - tile) // aligned) * aligned
    starts = [*range(0, last, step), last]
    cuts = [(start + before + tile) // 2 for before, start in itertools.pairwise(starts)]
    return [Tile(*found) for found in zip(starts, [0, *cuts], [*cuts, size], strict=True)]


def reflected(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return which samples of an axis stand at ``start`` to ``stop``; beyond its ends they are mirrored.

    >>> reflected(-2, 6, 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    period = max(1, 2 * (size - 1))
    places: NDArray[Any] = np.arange(start, stop) % period
    mirrored: NDArray[np.intp] = np.minimum(places, period - places if size > 1 else 0).astype(np.intp)
    return mirrored


def _alignment(tile: int, overlap: int) -> int:
    aligned = min(tile & -tile, _MOST_ALIGNMENT)
    while aligned > tile - overlap:
        aligned //= 2
    return aligned
