"""Cut an image into overlapping tiles, as torchshrink predict does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any


def plan(size: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """Return start, first and last kept sample of each tile of an axis; starts are multiples of what poolings need."""
    aligned = min(tile & -tile, 32)
    while aligned > tile - overlap:
        aligned //= 2
    step, last = (tile - overlap) // aligned * aligned, -(-max(0, size - tile) // aligned) * aligned
    starts = [*range(0, last, step), last]
    cuts = [0, *[(a + b + tile) // 2 for a, b in pairwise(starts)], size]
    return [(start, *kept) for start, kept in zip(starts, pairwise(cuts), strict=True)]


def mirrored(place: int, size: int) -> int:
    """Return which sample stands at a place beyond the end."""
    place %= max(1, 2 * (size - 1))
    return min(place, 2 * (size - 1) - place) if size > 1 else 0


def cut(sample: tuple[Any, int, int], channels: int, tile: list[int], top: int, left: int) -> Any:
    """Return a tile's values; what lies beyond the image is mirrored."""
    (values, height, width), (tall, wide) = sample, tile
    if (top, left, tall, wide) == (0, 0, height, width):
        return values
    part, inside = values[:0], max(0, min(wide, width - left))
    for y in range(top, top + tall):
        start = mirrored(y, height) * width
        part += values[(start + left) * channels : (start + left + inside) * channels]
        for x in range(left + inside, left + wide):
            part += values[(start + mirrored(x, width)) * channels :][:channels]
    return part
