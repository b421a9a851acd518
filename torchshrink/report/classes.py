"""Of a classification: which class is taken for which, and what compression does to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.report.columns import markdown_table
from torchshrink.report.schema import Report, Row, Task

_ROUNDING = 0.01  # by which a probability may be beyond 0 or 1
THRESHOLD = 0.5  # as torchshrink.metrics, which needs torch


def shown(rows: Sequence[Row]) -> list[Row]:
    """Return the first PyTorch row and the smallest exported file of each variant."""
    chosen = [row for row in rows if row["format"] == "torch"][:1]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        files = [row for row in rows if row["variant"] == variant and row["format"] != "torch"]
        chosen += sorted(files, key=lambda row: row["bytes"])[:1]
    return chosen


def confusion(row: Row) -> NDArray[np.int64] | None:
    """Return how often each class, by row, was taken for each, by column; None where a report does not say."""
    found = np.asarray(row.get("confusion", []), np.int64)
    return found if found.ndim == 2 and found.shape[0] == found.shape[1] > 0 else None


def answers(outputs: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class that each output stands for: the largest of ``[N, K]``.

    Of one number ``[N]`` or ``[N, 1]``, which is the probability or logit of the second of two classes, 0 or 1.
    """
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return np.asarray(outputs.argmax(1), np.int64)
    is_logit = outputs.min() < -_ROUNDING or outputs.max() > 1 + _ROUNDING
    return np.asarray(outputs.reshape(-1) > (0 if is_logit else THRESHOLD), np.int64)


def names(task: Task, count: int) -> list[str]:
    """Return what classes are called."""
    return [*task["class_names"], *(f"class {number}" for number in range(len(task["class_names"]), count))][:count]


def per_class(rows: Sequence[Row], task: Task) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of a table: the share of each class that is found, and its change, for some files.

    Nothing when the task is no classification. The first file is the one that the others' changes are from.
    """
    known = {row["name"]: found for row in shown(rows) if (found := confusion(row)) is not None}
    if not known:
        return [], []
    count = max(len(found) for found in known.values())
    shares = [_shares(found, count) for found in known.values()]
    samples = _padded(next(iter(known.values())), count).sum(1)
    lines = []
    for number, name in enumerate(names(task, count)):
        first, *others = (share[number] for share in shares)
        cells = [f"{share:.1%} ({100 * (share - first):+.1f})" if share == share else "none" for share in others]
        lines.append([name, str(samples[number]), f"{first:.1%}" if first == first else "none", *cells])
    return ["class", "samples", *known], lines


def markdown(report: Report) -> list[str]:
    """Return the lines of that table in Markdown; nothing when the task is no classification."""
    headings, lines = per_class(report["rows"], report["task"]) if report["rows"] else ([], [])
    if not lines:
        return []
    return ["## Classes", "", "Share of each class that is found, and its change in points.", "",
            *markdown_table(headings, lines)]  # fmt: skip


def _padded(found: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.pad(found, (0, count - len(found)))


def _shares(found: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    found = _padded(found, count)
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = np.diag(found) / found.sum(1)
    return shares
