"""The pictures of a run: size against loss, and the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchshrink.files import atomic
from torchshrink.report.tradeoff import Row

_FILES = {
    "tflite-fp32": "TFLite fp32",
    "tflite-fp32-sparse": "TFLite fp32, sparse",
    "tflite-int8": "TFLite int8",
    "tflite-int8-sparse": "TFLite int8, sparse",
}
_COLORS = dict(zip(_FILES.values(), ("#4477aa", "#66ccee", "#228833", "#aaaa00"), strict=True))


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw size against test loss, the area of a marker standing for latency, as PNG or SVG by the path's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = {"torch": "#ee4c2c", "onnx": "#4477aa", "tflite": "#228833", "h5": "#aa7733"}
    slowest = max((row["latency_ms"]["median"] for row in rows), default=1.0)
    for row in rows:
        area = 40 + 900 * row["latency_ms"]["median"] / slowest
        marker = {"fp32": "o", "fp16": "s", "int8": "D"}.get(row["precision"], "^")
        axes.scatter(
            row["bytes"] / 1e6, row["loss"], s=area, c=colors[row["format"]], marker=marker, alpha=0.35, linewidths=0
        )
        axes.scatter(row["bytes"] / 1e6, row["loss"], s=8, c=colors[row["format"]])
    _label(axes, rows)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.12)
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(FuncFormatter(lambda value, _: f"{value:g}"))  # megabytes, not powers of ten
    axes.set_xlabel("size of the file [MB]")
    axes.set_ylabel("test loss (computed with the file)")
    axes.set_title("Smaller is left, better is low; the larger the marker, the slower")
    axes.grid(alpha=0.3, which="both")
    handles = [axes.scatter([], [], s=60, c=color, label=name) for name, color in colors.items() if name != "h5"]
    handles += [
        axes.scatter([], [], s=60, c="#888888", marker=marker, label=name)
        for name, marker in {"fp32": "o", "fp16": "s", "int8": "D"}.items()
    ]
    axes.legend(handles=handles, ncols=2, fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _label(axes: Any, rows: Sequence[Row]) -> None:
    """Name the smallest file of every variant and the largest of all, which is what a reader looks for."""
    chosen = {id(max(rows, key=lambda row: row["bytes"])): max(rows, key=lambda row: row["bytes"])} if rows else {}
    for variant in {row["variant"] for row in rows}:
        best = min((row for row in rows if row["variant"] == variant), key=lambda row: row["bytes"])
        chosen[id(best)] = best
    for row in chosen.values():
        axes.annotate(row["name"], (row["bytes"] / 1e6, row["loss"]), (6, 8), textcoords="offset points", fontsize=8)


def plot_ladder(rows: Sequence[Row], path: Path) -> None:
    """Draw every rung's loss, bytes, latency and RAM against what was pruned, as PNG or SVG by the path's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    titles = ("test loss", "size of the file [MB]", "latency, median [ms]", "peak RAM of a fresh process [MB]")
    series = _series(rows)
    for axes, title, key in zip(panels.flat, titles, ("loss", "bytes", "latency", "ram"), strict=True):
        for (kind, file), points in series.items():
            axes.plot(
                [amount for amount, _ in points],
                [_value(row, key) for _, row in points],
                label=f"{kind}: {file}",
                marker="o" if kind == "weights" else "s",
                markersize=4,
                linestyle="-" if kind == "weights" else "--",
                color=_COLORS[file],
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("removed: weights set to zero, or channels [%]")
        axes.grid(alpha=0.3)
        if key != "loss":
            axes.set_ylim(bottom=0)
    if series:
        panels[0, 0].legend(fontsize=7)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _series(rows: Sequence[Row]) -> dict[tuple[str, str], list[tuple[float, Row]]]:
    """Return, for each kind of pruning and of file, the percentages and rows in their order; dense is 0 % of both."""
    found: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in rows:
        name, _, percent = row["variant"].partition("-")
        file = _FILES.get(row["name"].partition("/")[2])
        kinds = {"dense": ("weights", "channels"), "sparse": ("weights",), "channels": ("channels",)}.get(name, ())
        for kind in kinds if file else ():
            found.setdefault((kind, str(file)), []).append((float(percent or 0), row))
    return {key: sorted(points, key=lambda point: point[0]) for key, points in found.items() if len(points) > 1}


def _value(row: Row, key: str) -> float:
    values = {
        "loss": row["loss"],
        "bytes": row["bytes"] / 1e6,
        "latency": row["latency_ms"]["median"],
        "ram": row["peak_rss_mb"],
    }
    return float(values[key])
