"""Which file to take: the best one for each goal, and the files that no other beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchshrink.report.schema import Row

BUDGET = 0.01  # how much test loss a smaller, faster or leaner file may cost
NOISE = {"size": 0.0, "latency": 0.03, "RAM": 0.03, "loss": 0.001}  # relative; less is noise
_ROUNDING = 1e-9


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


def recommend(rows: Sequence[Row], budget: float = BUDGET) -> list[Recommendation]:
    """Return the exported file to take for each goal: smallest, fastest, least RAM, and lowest loss.

    The first three may have a test loss of at most ``budget`` above the dense PyTorch model's. PyTorch checkpoints are
    what was started from and are not recommended. Files that differ by less than the noise count as equal (latency
    and RAM 3 %, loss 0.1 %): of those, the smallest file is taken, then the one with the lowest loss, then the first.
    """
    exported = [row for row in rows if row["format"] != "torch" and math.isfinite(row["loss"])]
    limit = reference(rows, "torch")["loss"] + budget + _ROUNDING if rows else math.nan
    affordable = [row for row in exported if row["loss"] <= limit]
    closest = min(exported, key=lambda row: float(row["loss"]), default=None)
    goals = {"smallest": "size", "fastest": "latency", "least RAM": "RAM"}
    found = [Recommendation(goal, _best(affordable, measure), closest) for goal, measure in goals.items()]
    return [*found, Recommendation("lowest loss", _best(exported, "loss"))]


def front(rows: Sequence[Row], measure: str) -> list[Row]:
    """Return the rows, by rising ``measure``, that no other row beats in it or in loss without losing in the other.

    A difference below the noise, as in `recommend`, is none: of rows that are equal in the measure the one with the
    lowest loss stays, and a loss must be lower by more than that to be worth a larger file.
    """
    finite = [row for row in rows if math.isfinite(value(row, measure)) and math.isfinite(value(row, "loss"))]
    found: list[Row] = []
    for row in sorted(finite, key=lambda row: (value(row, measure), value(row, "loss"))):
        if found:
            loss, cost = value(found[-1], "loss"), value(found[-1], measure)
            if value(row, "loss") >= loss - _noise(loss, "loss"):
                continue
            if value(row, measure) <= cost + _noise(cost, measure):
                found.pop()
        found.append(row)
    return found


def _noise(figure: float, measure: str) -> float:
    """Return how much more or less is no difference; a loss may be negative."""
    return abs(figure) * NOISE[measure]


def _best(rows: Sequence[Row], measure: str) -> Row | None:
    key: Callable[[Row], float] = lambda row: value(row, measure)  # noqa: E731
    known = [row for row in rows if math.isfinite(key(row))]
    if not known:
        return None
    least = min(map(key, known))
    limit = least + _noise(least, measure)
    return min((row for row in known if key(row) <= limit), key=lambda row: (row["bytes"], row["loss"]))
