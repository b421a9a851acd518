"""How much of what is possible a set of candidates covers, in one number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_LEAST_SHARE = 1e-3


def hypervolume(points: Sequence[Sequence[float]]) -> float:
    """Return the volume that points dominate in the unit cube, each coordinate the better the smaller.

    Points outside of the cube are moved to its border. Computed exactly, by slicing along the first coordinate.

    Source: Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the strength
    Pareto approach", 1999.

    >>> hypervolume([(0.5, 0.5)])
    0.25
    >>> hypervolume([(0.5, 0.0), (0.0, 0.5)])
    0.75
    """
    inside = sorted({tuple(min(max(value, 0.0), 1.0) for value in point) for point in points})
    if not inside:
        return 0.0
    if len(inside[0]) == 1:
        return 1 - inside[0][0]
    total = 0.0
    for index, point in enumerate(inside):
        end = inside[index + 1][0] if index + 1 < len(inside) else 1.0
        total += (end - point[0]) * hypervolume([other[1:] for other in inside[: index + 1]])
    return total


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
