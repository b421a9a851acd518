"""The pictures of a run: size against loss, and the ladder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchshrink.files import atomic
from torchshrink.report.judge import Judge
from torchshrink.report.schema import Row
from torchshrink.report.tradeoff import BY_LOSS

RUNG = re.compile(r"(sparse|channels)-(\d+(?:\.\d+)?)")  # a variant of `torchshrink sweep`
_FILES = {
    "tflite-fp32": "TFLite fp32",
    "tflite-fp32-sparse": "TFLite fp32, sparse",
    "tflite-int8": "TFLite int8",
    "tflite-int8-sparse": "TFLite int8, sparse",
}
PANELS: dict[str, Callable[[Row], float]] = {
    "test loss": lambda row: row["loss"],
    "size of the file [MB]": lambda row: row["bytes"] / 1e6,
    "latency, median [ms]": lambda row: row["latency_ms"]["median"],
    "peak RAM of a fresh process [MB]": lambda row: row["peak_rss_mb"],
}
FILE_COLORS = dict(zip(_FILES.values(), ("#4477aa", "#66ccee", "#228833", "#aaaa00"), strict=True))


def plot(rows: Sequence[Row], path: Path, judge: Judge = BY_LOSS) -> None:
    """Draw size against what decides, the area of a marker standing for latency, as PNG or SVG by the path's ending."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    rows = [row for row in rows if math.isfinite(judge.figure(row))]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    colors = {"torch": "#ee4c2c", "onnx": "#4477aa", "tflite": "#228833", "h5": "#aa7733"}
    slowest = max((row["latency_ms"]["median"] for row in rows), default=1.0)
    for row in rows:
        area = 40 + 900 * row["latency_ms"]["median"] / slowest
        marker = {"fp32": "o", "fp16": "s", "int8": "D"}.get(row["precision"], "^")
        axes.scatter(
            row["bytes"] / 1e6,
            judge.figure(row),
            s=area,
            c=colors[row["format"]],
            marker=marker,
            alpha=0.35,
            linewidths=0,
        )
        axes.scatter(row["bytes"] / 1e6, judge.figure(row), s=8, c=colors[row["format"]])
    _label(axes, rows, judge)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.12)
    marked = _marked([row["bytes"] for row in rows])
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):  # megabytes, not powers of ten
        axis(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in marked else ""))
    axes.set_xlabel("size of the file [MB]")
    axes.set_ylabel(f"{judge.title} (computed with the file)")
    axes.set_title(
        f"Smaller is left, better is {'high' if judge.higher_is_better else 'low'}; the larger the marker, the slower"
    )
    axes.grid(alpha=0.3, which="both")
    handles = [axes.scatter([], [], s=60, c=color, label=name) for name, color in colors.items() if name != "h5"]
    handles += [
        axes.scatter([], [], s=60, c="#888888", marker=marker, label=name)
        for name, marker in {"fp32": "o", "fp16": "s", "int8": "D"}.items()
    ]
    axes.legend(handles=handles, ncols=2, fontsize=8)
    _save(figure, path)


def _marked(sizes: Sequence[int]) -> str:
    """Return the first digits of sizes that the axis names: over more than one power of ten, all would overlap.

    >>> _marked([14_000, 1_900_000]), _marked([500_000, 1_900_000])
    ('125', '123456789')
    """
    return "123456789" if max(sizes, default=1) < 10 * min(sizes, default=1) else "125"


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _label(axes: Any, rows: Sequence[Row], judge: Judge) -> None:
    """Name the smallest file of every variant and the largest of all, which is what a reader looks for."""
    by_size = sorted(rows, key=lambda row: -row["bytes"])
    chosen = [*by_size[:1], *{row["variant"]: row for row in by_size}.values()]
    for row in {row["name"]: row for row in chosen}.values():
        axes.annotate(
            row["name"], (row["bytes"] / 1e6, judge.figure(row)), (6, 8), textcoords="offset points", fontsize=8
        )


def plot_ladder(rows: Sequence[Row], path: Path) -> None:
    """Draw every rung's loss, bytes, latency and RAM against what was pruned, as PNG or SVG by the path's ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    panels = figure.subplots(2, 2)
    lines = series(rows)
    for axes, (title, value) in zip(panels.flat, PANELS.items(), strict=True):
        for (kind, file), points in lines.items():
            axes.plot(
                [amount for amount, _ in points],
                [value(row) for _, row in points],
                label=f"{kind}: {file}",
                marker="o" if kind == "weights" else "s",
                markersize=4,
                linestyle="-" if kind == "weights" else "--",
                color=FILE_COLORS[file],
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("removed: weights set to zero, or channels [%]")
        axes.grid(alpha=0.3)
        if title != "test loss":
            axes.set_ylim(bottom=0)
    if lines:
        panels[0, 0].legend(fontsize=7)
    _save(figure, path)


def series(rows: Sequence[Row]) -> dict[tuple[str, str], list[tuple[float, Row]]]:
    """Return, for each kind of pruning and of file, the percentages and rows in their order; dense is 0 % of both."""
    found: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in rows:
        rung = RUNG.fullmatch(row["variant"])
        name, amount = (rung[1], float(rung[2])) if rung else (row["variant"], 0.0)
        file = _FILES.get(row["name"].partition("/")[2])
        kinds = {"dense": ("weights", "channels"), "sparse": ("weights",), "channels": ("channels",)}.get(name, ())
        for kind in kinds if file else ():
            found.setdefault((kind, str(file)), []).append((amount, row))
    return {key: sorted(points, key=lambda point: point[0]) for key, points in found.items() if len(points) > 1}
