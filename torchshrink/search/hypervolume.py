"""How much of what is possible a set of candidates covers, in one number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from optuna._hypervolume import compute_hypervolume

_LEAST_SHARE = 1e-3


def hypervolume(points: Sequence[Sequence[float]]) -> float:
    """Return the volume that points dominate in the unit cube, each coordinate the better the smaller.

    Points outside of the cube are moved to its border. Computed exactly, by Optuna.

    Source: Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the strength
    Pareto approach", 1999.

    >>> hypervolume([(0.5, 0.5)])
    0.25
    >>> hypervolume([(0.5, 0.0), (0.0, 0.5)])
    0.75
    """
    if len(points) == 0:
        return 0.0
    inside = np.clip(np.asarray(points, dtype=float), 0.0, 1.0)
    return float(compute_hypervolume(inside, np.ones(inside.shape[1])))


def place(costs: Mapping[str, float], objectives: Sequence[str], dense: Mapping[str, float]) -> tuple[float, ...]:
    """Return where costs lie in the unit cube whose far corner is the dense model.

    Size, latency (a share of the dense file's) and memory are on a logarithmic scale from a thousandth of the dense
    file's (0) to as much (1); the loss goes from none (0) to twice the dense model's (1); of
    a metric that is better when higher, its negative does.
    """
    found = []
    for name in objectives:
        if name == "loss_increase":
            found.append(0.5 + costs[name] / (2 * abs(dense["loss"])) if dense["loss"] else 1.0)
        else:
            share = costs[name] / dense[name]
            found.append(1 - math.log(max(share, _LEAST_SHARE)) / math.log(_LEAST_SHARE))
    return tuple(found)
