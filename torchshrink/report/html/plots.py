"""The plots of the page: what a file costs against its loss, the ladder, how weights spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from torchshrink.report import samples
from torchshrink.report.html import svg
from torchshrink.report.judge import Judge
from torchshrink.report.plot import RUNG, plot_ladder
from torchshrink.report.schema import Row
from torchshrink.report.tradeoff import BY_LOSS, front, value

COLORS = {"torch": "#e8590c", "onnx": "#4c8dd6", "tflite": "#2f9e44", "h5": "#9c6ade"}
MARKERS = {"fp32": "o", "fp16": "s", "int8": "D", "dynamic": "^"}
_AXES = {
    "size": "size of the file [MB]",
    "latency": "latency, median [ms]",
    "RAM": "peak RAM of a fresh process [MB]",
}
_TITLES = {"size": "Size", "latency": "Latency", "RAM": "RAM"}


@dataclass(frozen=True)
class Plot:
    """A picture and what stands under it.

    Attributes:
        title: Its heading.
        svg: The element.
        notes: The files of the front, in the order of their numbers in the picture.
    """

    title: str
    svg: Markup
    notes: Sequence[str] = ()


def pareto(rows: Sequence[Row], judge: Judge = BY_LOSS) -> list[Plot]:
    """Draw size, latency and RAM against what decides, each with the files that no other file beats."""
    return [_pareto(rows, measure, judge) for measure in _AXES]


def ladder(rows: Sequence[Row]) -> Plot | None:
    """Draw the ladder when the rows are those of ``torchshrink sweep``."""
    if not any(RUNG.fullmatch(row["variant"]) for row in rows):
        return None
    label = "Loss, size, latency and RAM against the share of weights or channels removed"
    return Plot("The ladder", svg.embed(lambda path: plot_ladder(rows, path), "ladder", label))


def histograms(rows: Sequence[Row], out: Path) -> list[Plot]:
    """Draw how the weights spread in the dense file, in float and in int8, and in the smallest file."""
    found: list[Plot] = []
    for row in _telling(rows):
        if spread := samples.weights(out, row["name"]):
            kind = "int8 codes" if spread.is_int8 else "values"
            label = f"Histogram of the weights of {row['name']}"
            picture = svg.embed(lambda path, s=spread: _draw_histogram(s, path), f"weights-{len(found)}", label)  # type: ignore[misc]
            found.append(Plot(f"{row['name']}, {kind}", picture))
    return found


def _telling(rows: Sequence[Row]) -> list[Row]:
    if not rows:
        return []
    files = [row for row in rows if row["variant"] == rows[0]["variant"]]
    chosen = [next((row for row in files if row["precision"] == precision), None) for precision in ("fp32", "int8")]
    chosen.append(min(rows, key=lambda row: row["bytes"]))
    return list({row["name"]: row for row in chosen if row is not None}.values())


def _pareto(rows: Sequence[Row], measure: str, judge: Judge) -> Plot:
    best = front(rows, measure, judge)
    titles = {f"file-{index}": _tooltip(row, measure, judge) for index, row in enumerate(rows)}
    label = f"{_AXES[measure]} against {judge.title}. On the front: {', '.join(row['name'] for row in best) or 'none'}"
    draw = lambda path: _draw_pareto(rows, best, measure, judge, path)  # noqa: E731
    picture = svg.embed(draw, f"pareto-{measure}", label, titles)
    notes = [_tooltip(row, measure, judge) for row in best]
    return Plot(f"{_TITLES[measure]} and {judge.decides}", picture, notes)


def _tooltip(row: Row, measure: str, judge: Judge) -> str:
    unit = "ms" if measure == "latency" else "MB"
    return f"{row['name']}: {value(row, measure):.4g} {unit}, {judge.decides} {judge.text(judge.figure(row))}"


def _draw_pareto(rows: Sequence[Row], best: Sequence[Row], measure: str, judge: Judge, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(4.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [value(row, measure) for row in best],
        [judge.figure(row) for row in best],
        color=svg.ink(),
        linewidth=1,
        linestyle="--",
        drawstyle="steps-post",
    )
    for index, row in enumerate(rows):
        style: dict[str, Any] = {
            "marker": MARKERS.get(row["precision"], "^"),
            "c": COLORS.get(row["format"], "#888888"),
            "s": 34,
            "alpha": 0.75,
        }
        axes.scatter(value(row, measure), judge.figure(row), linewidths=0, gid=f"file-{index}", **style)
    for number, row in enumerate(best, start=1):
        place = (value(row, measure), judge.figure(row))
        axes.scatter(*place, marker="o", s=110, facecolors="none", edgecolors=svg.ink(), linewidths=1)
        axes.annotate(str(number), place, (-14, -12), textcoords="offset points", fontsize=9, fontweight="bold")
    values = [value(row, measure) for row in rows if math.isfinite(value(row, measure))]
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.14)
    axes.xaxis.set_major_locator(FixedLocator(ticks(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.set_xlabel(_AXES[measure])
    axes.set_ylabel(f"{judge.title}{judge.unit and f' [{judge.unit}]'}")
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    svg.save(figure, path)


def ticks(values: Sequence[float]) -> list[float]:
    """Return round numbers within (a little beyond) positive values: 1, 2, 5, or closer when they span little."""
    if not values:
        return [1.0]
    low, high = min(values) / 1.15, max(values) * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / 8)] if found else [values[0]]


def _draw_histogram(spread: samples.Histogram, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(3.6, 2.3), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(spread.counts, spread.edges, fill=True, color="#2f9e44" if spread.is_int8 else "#4c8dd6")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    zeros = spread.counts[len(spread.counts) // 2] / max(int(spread.counts.sum()), 1)
    axes.set_xlabel("code" if spread.is_int8 else "weight")
    axes.set_ylabel("weights")
    where = "code 0" if spread.is_int8 else "the bin around 0"
    axes.set_title(f"{zeros:.0%} in {where}", fontsize=9, loc="left")
    svg.save(figure, path)
