"""Which file to take: the best one for each goal, and the files that no other beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torchshrink.report.judge import Judge
from torchshrink.report.schema import Row
from torchshrink.settings import Budget

NOISE = {"size": 0.0, "latency": 0.03, "RAM": 0.03, "loss": 0.001}  # relative; less is noise
BY_LOSS = Judge()


@dataclass(frozen=True)
class Recommendation:
    """The file to take for one goal.

    Attributes:
        goal: Such as ``smallest``.
        row: The file's row; ``None`` when no file is within the budget.
        closest: When there is none, the exported file that misses the budget by least, if any file was exported.
    """

    goal: str
    row: Row | None
    closest: Row | None = None


def value(row: Row, measure: str) -> float:
    """Return a row's ``size`` in MB, ``latency`` in ms, ``RAM`` in MB or ``loss``; NaN when it is not known."""
    found = {
        "size": lambda: row["bytes"] / 1e6,
        "latency": lambda: row["latency_ms"]["median"],
        "RAM": lambda: row["peak_rss_mb"],
        "loss": lambda: row["loss"],
    }[measure]()
    return math.nan if found is None else float(found)


def reference(rows: Sequence[Row], format_: str = "tflite") -> Row:
    """Return the row that others of the same runtime are compared with: the first fp32 file of a format, or at all."""
    same = [row for row in rows if row["format"] == format_ and row["precision"] == "fp32"]
    return (same or [row for row in rows if row["precision"] == "fp32"] or list(rows))[0]


def recommend(rows: Sequence[Row], budget: float | None = None, judge: Judge = BY_LOSS) -> list[Recommendation]:
    """Return the exported file to take for each goal: smallest, fastest, least RAM, and best in what decides.

    The first three may be worse than the dense PyTorch model by the judge's budget, or by ``budget`` in the units of
    what decides. PyTorch checkpoints are what was started from and are not recommended. Files that differ by less than
    the noise count as equal (latency and RAM 3 %, what decides 0.1 %): of those, the smallest file is taken, then the
    best one, then the first.
    """
    if budget is not None:
        judge = replace(judge, budget=Budget(budget, is_share=False))
    exported = [row for row in rows if row["format"] != "torch" and math.isfinite(judge.cost(row))]
    limit = judge.limit(reference(rows, "torch")) if rows else math.nan
    affordable = [row for row in exported if judge.cost(row) <= limit]
    closest = min(exported, key=judge.cost, default=None)
    goals = {"smallest": "size", "fastest": "latency", "least RAM": "RAM"}
    found = [Recommendation(goal, _best(affordable, measure, judge), closest) for goal, measure in goals.items()]
    best = "lowest loss" if judge.decides == "loss" else f"best {judge.decides}"
    return [*found, Recommendation(best, _best(exported, "loss", judge))]


def front(rows: Sequence[Row], measure: str, judge: Judge = BY_LOSS) -> list[Row]:
    """Return the rows, by rising ``measure``, that no other row beats in it or in what decides without losing there.

    A difference below the noise, as in `recommend`, is none: of rows that are equal in the measure the best one stays,
    and one must be better by more than that to be worth a larger file.
    """
    finite = [row for row in rows if math.isfinite(value(row, measure)) and math.isfinite(judge.cost(row))]
    found: list[Row] = []
    for row in sorted(finite, key=lambda row: (value(row, measure), judge.cost(row))):
        if found:
            best, cost = judge.cost(found[-1]), value(found[-1], measure)
            if judge.cost(row) >= best - _noise(best, "loss"):
                continue
            if value(row, measure) <= cost + _noise(cost, measure):
                found.pop()
        found.append(row)
    return found


def _noise(figure: float, measure: str) -> float:
    """Return how much more or less is no difference; a loss may be negative."""
    return abs(figure) * NOISE[measure]


def _best(rows: Sequence[Row], measure: str, judge: Judge) -> Row | None:
    key: Callable[[Row], float] = judge.cost if measure == "loss" else lambda row: value(row, measure)
    known = [row for row in rows if math.isfinite(key(row))]
    if not known:
        return None
    least = min(map(key, known))
    limit = least + _noise(least, measure)
    return min((row for row in known if key(row) <= limit), key=lambda row: (row["bytes"], judge.cost(row)))
