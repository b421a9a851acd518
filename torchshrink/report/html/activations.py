"""The histograms of the page that show how activations spread in float and over the codes of int8 files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchshrink.report import samples
from torchshrink.report.activations import CODES, Activation
from torchshrink.report.html.figure import Figure, axis, bars, limit, line, log
from torchshrink.report.judge import Judge
from torchshrink.report.schema import Row
from torchshrink.report.tradeoff import BY_LOSS, reference

FLOAT, INT8 = "#4c8dd6", "#2f9e44"


@dataclass(frozen=True)
class FileActivations:
    """What the page shows of one file.

    Attributes:
        name: The file's row.
        figures: One per tensor, in the order of the network.
    """

    name: str
    figures: Sequence[Figure]


def activations(rows: Sequence[Row], out: Path, judge: Judge = BY_LOSS) -> list[FileActivations]:
    """Draw the activations of the best int8 file of each format; nothing for a run that kept none."""
    found: list[FileActivations] = []
    for row in best(rows, judge):
        if spreads := samples.activations(out, row["name"]):
            found.append(FileActivations(row["name"], [_figure(spread) for spread in spreads]))
    return found


def best(rows: Sequence[Row], judge: Judge = BY_LOSS) -> list[Row]:
    """Return each format's smallest int8 file that is within the budget, or else the best one in what decides."""
    int8 = [row for row in rows if row["precision"] == "int8" and math.isfinite(judge.cost(row))]
    limit = judge.limit(reference(rows, "torch")) if rows else math.nan
    found: list[Row] = []
    for format_ in dict.fromkeys(row["format"] for row in int8):
        files = [row for row in int8 if row["format"] == format_]
        affordable = [row for row in files if judge.cost(row) <= limit]
        found.append(min(affordable, key=lambda row: row["bytes"]) if affordable else min(files, key=judge.cost))
    return found


def _figure(spread: Activation) -> Figure:
    title = f"{spread.layer}: {spread.name}" if spread.layer else spread.name
    notes = [f"{percent(spread.clipped)} clipped, {spread.used} of {CODES} codes used"]
    shown = _shown(spread)
    edges = spread.edges[shown.start : shown.stop + 1]
    centers = (edges[:-1] + edges[1:]) / 2
    data = [bars("float", FLOAT, centers, spread.floats[shown], opacity=0.55)]
    steps = {"color": INT8, "width": 1.5, "shape": "hvh"}
    data.append(line("int8", INT8, centers, spread.int8[shown], line=steps))
    layout = {
        "xaxis": axis("", nticks=5),
        "yaxis": log(""),
        "bargap": 0,
        "shapes": [limit("x", at) for at in spread.limits],
    }
    return Figure(title, f"Histogram of {title} in float and in int8: {notes[0]}", data, layout, notes, 190)


def percent(share: float) -> str:
    """Return a share in percent that is 0 or 100 only when all or nothing is meant.

    >>> [percent(share) for share in (0.0, 0.00001, 0.0123, 0.99999, 1.0)]
    ['0 %', '< 0.01 %', '1.23 %', '> 99.99 %', '100 %']
    """
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    if share < 0.0001:
        return "< 0.01 %"
    return "> 99.99 %" if share > 0.9999 else f"{100 * share:.2f} %"


def _shown(spread: Activation) -> slice:
    """Return the bins that hold something, and those of the int8 range with two more on each side."""
    inside = np.flatnonzero((spread.edges[:-1] < spread.limits[1]) & (spread.edges[1:] > spread.limits[0]))
    held = np.flatnonzero(spread.floats)
    first, last = (int(each) for each in (min(inside[0] - 2, *held[:1]), max(inside[-1] + 2, *held[-1:])))
    return slice(first, last + 1)
