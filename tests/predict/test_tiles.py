"""Tiles as a pure function: what is kept covers the axis once, and lies far enough from every cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from torchshrink.errors import RecipeError
from torchshrink.predict import tiles

SIZES = (*range(1, 70), 127, 128, 129, 500)
TILES = (1, 2, 3, 5, 7, 8, 12, 16, 24, 32, 64)
CASES = [(tile, overlap) for tile in TILES for overlap in range(tile)]


def aligned(tile: int, overlap: int) -> int:
    """The largest power of two, at most 32, that divides the tile and by which tiles can move on."""
    return max(power for power in (1, 2, 4, 8, 16, 32) if tile % power == 0 and power <= tile - overlap)


@pytest.mark.parametrize("tile", TILES)
def test_every_sample_is_kept_once_in_order(tile: int) -> None:
    for overlap, size in itertools.product(range(tile), SIZES):
        found = tiles.plan(size, tile, overlap)
        kept = [sample for part in found for sample in range(part.keep_from, part.keep_to)]
        assert kept == list(range(size))


@pytest.mark.parametrize("tile", TILES)
def test_what_is_kept_was_read_with_half_of_the_overlap_around_it(tile: int) -> None:
    for overlap, size in itertools.product(range(tile), SIZES):
        for part in tiles.plan(size, tile, overlap):
            assert part.keep_from < part.keep_to
            before, after = part.keep_from - part.start, part.start + tile - part.keep_to
            assert before >= (overlap // 2 if part.start else 0)
            assert after >= (overlap // 2 if part.keep_to < size else 0)


@pytest.mark.parametrize("tile", TILES)
def test_tiles_start_at_multiples_that_survive_pooling(tile: int) -> None:
    for overlap, size in itertools.product(range(tile), SIZES):
        unit = aligned(tile, overlap)
        found = tiles.plan(size, tile, overlap)
        assert all(part.start % unit == 0 for part in found)
        assert found[0].start == 0
        assert found[-1].start + tile - size < max(unit, tile - size + 1)  # no more is invented than needed


def test_tiles_of_an_image_by_hand() -> None:
    # 128 = 4 * 32: tiles move on by 96 and end at 300 rounded up to 128 + 6 * 32 = 320.
    found = tiles.plan(300, 128, 32)
    assert [part.start for part in found] == [0, 96, 192]
    assert [(part.keep_from, part.keep_to) for part in found] == [(0, 112), (112, 208), (208, 300)]


def test_an_image_of_one_tile_or_less_is_one_tile() -> None:
    assert tiles.plan(128, 128, 127) == [tiles.Tile(0, 0, 128)]
    assert tiles.plan(1, 128, 32) == [tiles.Tile(0, 0, 1)]


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "words"),
    [
        (9, 8, 8, "overlap 8 does not fit tile 8: choose an overlap from 0 to 7"),
        (9, 8, -1, "overlap -1 does not fit tile 8"),
        (0, 8, 0, "size 0, tile 8: both must be at least 1"),
        (9, 0, 0, "size 9, tile 0: both must be at least 1"),
    ],
)
def test_what_cannot_be_planned(size: int, tile: int, overlap: int, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        tiles.plan(size, tile, overlap)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_reflection_is_that_of_numpy(size: int) -> None:
    before, after = 5, 19
    expected = np.pad(np.arange(size), (before, after), "reflect" if size > 1 else "edge")
    assert tiles.reflected(-before, size + after, size).tolist() == expected.tolist()


def test_inside_nothing_is_reflected() -> None:
    assert tiles.reflected(2, 5, 9).tolist() == [2, 3, 4]
