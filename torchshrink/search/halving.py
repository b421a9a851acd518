"""Which candidates are trained further: asynchronous successive halving over several costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """How a candidate does.

    Attributes:
        number: Of the candidate.
        losses: The validation loss after each rung that it has reached.
        costs: What it will cost, in the costs that are minimised; the same for all its rungs.
        excess: By how much it will probably exceed the limits; 0 when it will meet them.
        is_waiting: Whether it could go on: neither closed nor under way.
    """

    number: int
    losses: tuple[float, ...]
    costs: tuple[float, ...]
    is_waiting: bool
    excess: float = 0.0


def next_up(standings: Sequence[Standing], rungs: int, reduction: int, is_last_call: bool = False) -> int | None:
    """Return the candidate to train further, or nothing when a new one should be tried first.

    Of the candidates that have reached a rung, the best ``1 / reduction`` may go on to the next; the highest rung is
    looked at first. Candidates are ranked by non-dominated sorting of loss and costs, and by loss within a front;
    those that will exceed the limits come after all that will not, the nearest first.

    Args:
        standings: Of all candidates that were trained.
        rungs: How many there are.
        reduction: One of so many goes on.
        is_last_call: Whether no new candidate will come: shares are rounded up then, so that something finishes.

    Source: Li et al., arXiv:1810.05934, algorithm 2; the ranking as Schmucker et al., arXiv:2106.12639, limits as Deb
    et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002, section VI.

    >>> waiting = [Standing(n, (loss,), (), True) for n, loss in enumerate((0.3, 0.1, 0.2))]
    >>> next_up(waiting, rungs=3, reduction=2)
    1
    >>> next_up(waiting[:1], rungs=3, reduction=2) is None
    True
    """
    for rung in reversed(range(rungs - 1)):
        reached = [standing for standing in standings if len(standing.losses) > rung]
        count = len(reached) // reduction if not is_last_call else -(-len(reached) // reduction)
        for standing in ranked(reached, rung)[:count]:
            if standing.is_waiting and len(standing.losses) == rung + 1:
                return standing.number
    return None


def ranked(standings: Sequence[Standing], rung: int) -> list[Standing]:
    """Return candidates, the best first, by what they had reached after a rung."""
    points = {standing.number: (standing.losses[rung], *standing.costs) for standing in standings}
    left, order = [standing for standing in standings if standing.excess <= 0], []
    while left:
        front = [one for one in left if not any(dominates(points[other.number], points[one.number]) for other in left)]
        order += sorted(front, key=lambda standing: (points[standing.number], standing.number))
        left = [standing for standing in left if standing not in front]
    return order + sorted(
        (standing for standing in standings if standing.excess > 0),
        key=lambda standing: (standing.excess, points[standing.number], standing.number),
    )


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the first is nowhere worse and somewhere better, smaller being better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(points: dict[int, tuple[float, ...]]) -> list[int]:
    """Return the numbers of the points that no other dominates, in their order."""
    return [number for number, point in points.items() if not any(dominates(other, point) for other in points.values())]
