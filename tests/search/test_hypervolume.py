"""The volume that candidates cover."""

import itertools
import random

import pytest

from torchshrink.search.hypervolume import hypervolume, place

DENSE = {"size": 1e6, "latency": 1.0, "rss": 64.0, "loss": 0.2}


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_against_counting_cells(dims: int) -> None:
    """All coordinates are multiples of 1/8, so the volume is a number of cells."""
    rng = random.Random(dims)
    points = [tuple(rng.randrange(9) / 8 for _ in range(dims)) for _ in range(6)]
    cells = itertools.product(range(8), repeat=dims)
    covered = sum(any(all(8 * p <= c for p, c in zip(point, cell, strict=True)) for point in points) for cell in cells)
    assert hypervolume(points) == pytest.approx(covered / 8**dims)


def test_more_points_never_cover_less() -> None:
    rng = random.Random(0)
    points = [(rng.random(), rng.random()) for _ in range(20)]
    volumes = [hypervolume(points[:count]) for count in range(21)]
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(volumes))
    assert hypervolume([*points, (0.0, 0.0)]) == 1.0


def test_points_outside_count_at_the_border() -> None:
    assert hypervolume([(-1.0, 0.5), (2.0, 0.0)]) == 0.5


def test_places() -> None:
    costs = {"size": 1e3, "latency": 1.0, "rss": 64e-3, "loss_increase": 0.1}
    assert place(costs, ("size", "latency", "rss", "loss_increase"), DENSE) == pytest.approx((0, 1, 0, 0.75))
    assert place({"size": 1e5}, ("size",), DENSE) == pytest.approx((2 / 3,))
    assert place({"loss_increase": -0.2}, ("loss_increase",), DENSE) == pytest.approx((0.0,))


def test_a_metric_that_is_better_when_higher_is_placed_by_its_negative() -> None:
    dense = {"loss": -0.8}
    assert place({"loss_increase": 0.0}, ("loss_increase",), dense) == (0.5,)
    assert place({"loss_increase": 0.4}, ("loss_increase",), dense) == pytest.approx((0.75,))
