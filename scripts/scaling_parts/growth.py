"""Say what a cost grows with, from its figures for models of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NOTHING = "nothing"
_LEAST = 1.25  # the largest figure over the smallest, below which a cost hardly grows


@dataclass(frozen=True)
class Growth:
    """What describes a cost best: ``fixed + slope * driver``, neither of them negative.

    Attributes:
        driver: The name of what it grows with, or `NOTHING`.
        ratio: The largest model's cost over the smallest's.
        fixed_share: Share of the largest model's cost that does not grow, in [0, 1].
        error: The largest relative error of the description.
    """

    driver: str
    ratio: float
    fixed_share: float
    error: float


def find(costs: Sequence[float], drivers: Mapping[str, Sequence[float]]) -> Growth:
    """Return the driver that describes a cost best, by the sum of squared relative errors.

    Args:
        costs: One per model, the smallest model first.
        drivers: By name, what each model has of it.
    """
    ratio = costs[-1] / costs[0]
    if max(costs) / min(costs) < _LEAST:
        return Growth(NOTHING, ratio, 1.0, max(costs) / min(costs) - 1)
    found = {name: _line(costs, values) for name, values in drivers.items()}
    name = min(found, key=lambda key: float(np.square(found[key][1]).sum()))
    fixed, errors = found[name]
    return Growth(name, ratio, fixed / costs[-1], float(np.abs(errors).max()))


@dataclass(frozen=True)
class Parts:
    """A cost taken apart: ``fixed + sum(weight * driver)``, no part of it negative.

    Attributes:
        fixed: What does not grow.
        weights: What a unit of each driver costs.
        shares: By driver, its share of the growth from the smallest model to the largest.
        error: The largest relative error. As many models as parts leave none: then it is arithmetic, not a test.
    """

    fixed: float
    weights: Mapping[str, float]
    shares: Mapping[str, float]
    error: float


def take_apart(costs: Sequence[float], drivers: Mapping[str, Sequence[float]]) -> Parts:
    """Return what a cost consists of, for one that several drivers add up to; Args as `find`."""
    found, errors = _sum(costs, list(drivers.values()))
    weights = dict(zip(drivers, map(float, found[1:]), strict=True))
    grown = {name: weights[name] * (values[-1] - values[0]) for name, values in drivers.items()}
    total = sum(grown.values()) or 1.0
    shares = {name: part / total for name, part in grown.items()}
    return Parts(float(found[0]), weights, shares, float(np.abs(errors).max()))


def _line(costs: Sequence[float], driver: Sequence[float]) -> tuple[float, Array]:
    """Return the part of the best line that is fixed, and its relative errors."""
    weights, errors = _sum(costs, [driver])
    return float(weights[0]), errors


def _sum(costs: Sequence[float], drivers: Sequence[Sequence[float]]) -> tuple[Array, Array]:
    """Return the fixed part and the weight of each driver, none of them negative, and the relative errors."""
    wanted = np.asarray(costs, float)
    columns = np.stack([np.ones_like(wanted), *np.asarray(drivers, float)], axis=1) / wanted[:, None]
    count = columns.shape[1]
    found = []
    for used in (list(part) for size in range(1, count + 1) for part in combinations(range(count), size)):
        scale = columns[:, used].max(axis=0)
        part = np.linalg.lstsq(columns[:, used] / scale, np.ones_like(wanted), rcond=None)[0] / scale
        if (part >= 0).all():
            weights = np.zeros(count)
            weights[used] = part
            found.append((weights, columns @ weights - 1))
    return min(found, key=lambda each: float(np.square(each[1]).sum()))
