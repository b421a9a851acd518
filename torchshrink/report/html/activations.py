"""The histograms of the page that show how activations spread in float and over the codes of int8 files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchshrink.report import samples
from torchshrink.report.activations import CODES, Activation
from torchshrink.report.html import svg
from torchshrink.report.html.plots import Plot
from torchshrink.report.judge import Judge
from torchshrink.report.schema import Row
from torchshrink.report.tradeoff import BY_LOSS, reference

FLOAT, INT8 = "#4c8dd6", "#2f9e44"


@dataclass(frozen=True)
class FileActivations:
    """What the page shows of one file.

    Attributes:
        name: The file's row.
        plots: One per tensor, in the order of the network.
        legend: Colours and what they stand for.
    """

    name: str
    plots: Sequence[Plot]
    legend: Sequence[tuple[str, str]] = ((FLOAT, "float"), (INT8, "int8"))


def activations(rows: Sequence[Row], out: Path, judge: Judge = BY_LOSS) -> list[FileActivations]:
    """Draw the activations of the best int8 file of each format; nothing for a run that kept none."""
    found: list[FileActivations] = []
    for row in best(rows, judge):
        if spreads := samples.activations(out, row["name"]):
            drawn = [_plot(spread, f"activation-{len(found)}-{index}") for index, spread in enumerate(spreads)]
            found.append(FileActivations(row["name"], drawn))
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


def _plot(spread: Activation, prefix: str) -> Plot:
    title = f"{spread.layer}: {spread.name}" if spread.layer else spread.name
    notes = [f"{percent(spread.clipped)} clipped", f"{spread.used} of {CODES} codes used"]
    label = f"Histogram of {title} in float and in int8: {', '.join(notes)}"
    return Plot(title, svg.embed(lambda path: _draw(spread, path), prefix, label), notes)


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


def _draw(spread: Activation, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(2.4, 1.55), layout="constrained")
    axes = figure.add_subplot()
    shown = _shown(spread)
    edges = spread.edges[shown.start : shown.stop + 1]
    axes.stairs(spread.floats[shown], edges, fill=True, color=FLOAT, alpha=0.55, linewidth=0)
    axes.stairs(spread.int8[shown], edges, color=INT8, linewidth=1.3)
    for limit in spread.limits:
        axes.axvline(limit, color=svg.ink(), linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_major_formatter(lambda number, _: _short(number))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8)
    svg.save(figure, path)


def _shown(spread: Activation) -> slice:
    """Return the bins that hold something, and those of the int8 range with two more on each side."""
    inside = np.flatnonzero((spread.edges[:-1] < spread.limits[1]) & (spread.edges[1:] > spread.limits[0]))
    held = np.flatnonzero(spread.floats)
    first, last = (int(each) for each in (min(inside[0] - 2, *held[:1]), max(inside[-1] + 2, *held[-1:])))
    return slice(first, last + 1)


def _short(number: float) -> str:
    """Return a power of ten in few letters: 1, 100, 10k, 1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
