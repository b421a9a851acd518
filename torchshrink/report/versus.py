"""Two runs side by side: the same file of each, with its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torchshrink.digits import written
from torchshrink.report.answer import answer
from torchshrink.report.columns import Cell
from torchshrink.report.judge import Judge
from torchshrink.report.schema import Report, Row
from torchshrink.report.text import judge_of
from torchshrink.report.tradeoff import BY_LOSS

Lines = list[list[Cell]]
# Of the first or second run: a figure, and how it is written.
Read = Callable[[Row, int], tuple[float, str | Callable[[float], str]]]


def table(one: Report, other: Report, names: Sequence[str]) -> tuple[list[str], Lines]:
    """Return headings and cells: a line for each file of either run, what it has in both beside each other.

    Args:
        one: A report.
        other: Another one.
        names: What the two are called.
    """
    judges = judges_of(one, other)
    found = [{row["name"]: row for row in report["rows"]} for report in (one, other)]
    figures: dict[str, Read] = {
        "MB": lambda row, _: (row["bytes"] / 1e6, "{:.3f}"),
        judges[0].decides: lambda row, side: (judges[side].figure(row), written),
        "ms": lambda row, _: (row["latency_ms"]["median"], "{:.2f}"),
        "RAM MB": lambda row, _: (row["peak_rss_mb"], "{:.0f}"),
    }
    headings = ["file", *(f"{figure} {name}" for figure in figures for name in names)]
    lines = []
    for name in dict.fromkeys(name for side in found for name in side):
        rows: list[Row | None] = [side.get(name) for side in found]
        cells = [_cell(row, side, read) for read in figures.values() for side, row in enumerate(rows)]
        lines.append([Cell(name), *cells])
    return headings, lines


def sentences(one: Report, other: Report, names: Sequence[str]) -> list[str]:
    """Return what to ship of each run, and what makes their figures hard to compare."""
    both = zip(names, (one, other), strict=True)
    said = [f"{name}: {answer(report, judge_of(report)).sentence}" for name, report in both]
    judges = judge_of(one), judge_of(other)
    if judges[0].decides != judges[1].decides:
        said.append(
            f"{names[0]} is judged by {judges[0].decides}, {names[1]} by {judges[1].decides}: losses are shown."
        )
    for key, what in (("processor", "processors"), ("cores", "numbers of cores")):
        if one["environment"].get(key) != other["environment"].get(key):
            said.append(f"They were measured on different {what}: their times say nothing about each other.")
    if one["task"]["name"] != other["task"]["name"] or one["task"]["test"] != other["task"]["test"]:
        said.append("Their test data differ: so may their figures.")
    return said


def few(one: Report, other: Report, names: Sequence[str]) -> list[str]:
    """Return the headings that a narrow screen has room for."""
    return [
        "file",
        *(f"{figure} {name}" for figure in ("MB", judges_of(one, other)[0].decides, "ms") for name in names),
    ]


def judges_of(one: Report, other: Report) -> tuple[Judge, Judge]:
    """Return what the files of two runs are compared by: what decides in both, or else their losses."""
    judges = judge_of(one), judge_of(other)
    return judges if judges[0].decides == judges[1].decides else (BY_LOSS, BY_LOSS)


def _cell(row: Row | None, side: int, read: Read) -> Cell:
    if row is None:
        return Cell("", math.nan)
    value, form = read(row, side)
    return Cell(form.format(value) if isinstance(form, str) else form(value), value)
