import numpy as np
import pytest

from torchshrink.data import cells, pulses
from torchshrink.errors import DataError


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    axes = tuple(range(1, truth.ndim))
    return float((2 * (found & truth).sum(axes) / np.maximum(1, found.sum(axes) + truth.sum(axes))).mean())


@pytest.mark.parametrize(("make", "shape"), [(cells, (60, 1, 64, 64)), (pulses, (60, 1, 512))])
def test_shapes_types_and_share_of_foreground(make, shape):
    x, y = make(60, shape[-1], 0)
    assert x.shape == y.shape == shape
    assert (x.dtype, y.dtype) == (np.float32, np.uint8)
    assert set(np.unique(y)) == {0, 1}
    assert 0.1 < y.mean() < 0.25


def test_cells_are_images_in_0_to_1_that_rarely_saturate():
    x, _ = cells(60, 64, 0)
    assert x.min() >= 0
    assert x.max() <= 1
    assert np.isin(x, (0, 1)).mean() < 0.01


@pytest.mark.parametrize("make", [cells, pulses])
def test_seed_decides_alone(make):
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    first = make(5, 64, 3)
    np.random.seed(1)  # noqa: NPY002
    again, other = make(5, 64, 3), make(5, 64, 4)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


@pytest.mark.parametrize(("make", "size"), [(cells, 64), (pulses, 512)])
def test_no_threshold_solves_it_but_the_signal_is_there(make, size):
    x, y = make(80, size, 0)
    truth = y > 0
    best = max(dice(x > level, truth) for level in np.linspace(x.min(), x.max(), 60))
    assert 2 * truth.mean() / (1 + truth.mean()) < best < 0.85  # the lower bound is "everything is foreground"


def test_pulse_stands_above_its_baseline():
    x, y = pulses(200, 512, 0)
    inside = np.nanmedian(np.where(y > 0, x, np.nan))
    outside = np.nanmedian(np.where(y > 0, np.nan, x))
    assert inside > outside + 0.3


def test_cells_are_compact():
    # A pixel of truth without any neighbour would be an artefact of drawing, the smallest cell is 6 pixels wide.
    _, y = cells(200, 64, 0)
    padded = np.pad(y[:, 0], ((0, 0), (1, 1), (1, 1)))
    neighbours = sum(
        padded[:, 1 + i : 65 + i, 1 + j : 65 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)
    )
    assert neighbours[:, 1:-1, 1:-1][y[:, 0, 1:-1, 1:-1] > 0].min() > 0


def test_cells_lie_everywhere_and_prefer_no_side():
    _, y = cells(300, 64, 0)
    share = y.mean((0, 1))
    assert share.min() > 0
    edges = [edge.mean() for edge in (share[:8], share[-8:], share[:, :8], share[:, -8:])]
    assert max(edges) < 1.2 * min(edges)


@pytest.mark.parametrize(
    ("make", "settings", "named"),
    [
        (cells, {"n": 0}, "n=0"),
        (cells, {"n": 1, "size": 15}, "size=15"),
        (pulses, {"n": 1, "length": 63}, "length=63"),
        (pulses, {"n": 1, "seed": -1}, "seed=-1"),
    ],
)
def test_settings_out_of_range(make, settings, named):
    with pytest.raises(DataError, match=named):
        make(**settings)


@pytest.mark.parametrize("make", [cells, pulses])
def test_smallest_sizes(make):
    for seed in range(20):
        x, y = make(1, {cells: 16, pulses: 64}[make], seed)
        assert np.isfinite(x).all()
        assert x.shape == y.shape
