"""The plots of files: what each costs against its loss, how its times spread, the ladder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torchshrink.report.html.figure import (
    COLORS,
    EDGE,
    GREY,
    Figure,
    Trace,
    axis,
    limit,
    line,
    log,
    names_above,
    points,
)
from torchshrink.report.judge import Judge
from torchshrink.report.plot import FILE_COLORS, PANELS, RUNG, series
from torchshrink.report.schema import Failure, Row
from torchshrink.report.tradeoff import BY_LOSS, front, recommend, reference, value

FORMATS = {"torch": "PyTorch", "onnx": "ONNX", "tflite": "TFLite", "h5": "Keras"}
FORMAT_COLORS = {"torch": "#e8590c", "onnx": "#4c8dd6", "tflite": "#2f9e44", "h5": "#9c6ade"}
SYMBOLS = {"fp32": ("circle", "\u25cf"), "fp16": ("square", "\u25a0"), "int8": ("diamond", "\u25c6")}
_OTHER = ("triangle-up", "\u25b2")
_AXES = {
    "size": "size of the file [MB]",
    "latency": "latency, median [ms]",
    "RAM": "peak RAM of a fresh process [MB]",
}
_TITLES = {"size": "Size", "latency": "Latency", "RAM": "RAM"}
_MOST_TIMES = 24  # files whose times are drawn


def pareto(
    rows: Sequence[Row], judge: Judge = BY_LOSS, failed: Sequence[Failure] = (), ship: Row | None = None
) -> list[Figure]:
    """Draw size, latency and RAM against what decides: each file, those that no other beats, and what to take.

    Args:
        rows: Of a report.
        judge: What decides.
        failed: Files that failed; those of a known size are drawn, at the worst figure of the others.
        ship: The one to ship.
    """
    return [_pareto(rows, measure, judge, failed if measure == "size" else (), ship) for measure in _AXES]


def of_runs(runs: Mapping[str, tuple[Sequence[Row], Judge]]) -> list[Figure]:
    """Draw the files of several runs, a colour for each run, size and latency against what decides."""
    judge = next(iter(runs.values()))[1]
    found = []
    for measure in ("size", "latency"):
        data = []
        for (name, (rows, own)), color in zip(runs.items(), COLORS, strict=False):
            x, said = [value(row, measure) for row in rows], [_said(row, measure, own) for row in rows]
            symbols = [SYMBOLS.get(row["precision"], _OTHER)[0] for row in rows]
            marker = {"color": color, "size": 9, "symbol": symbols, "opacity": 0.8}
            data.append(points(name, color, x, [own.figure(row) for row in rows], said, marker=marker))
        title = f"{_TITLES[measure]} and {judge.decides}"
        label = f"{_AXES[measure]} against {judge.title} of {' and '.join(runs)}"
        found.append(Figure(title, label, data, {"xaxis": log(_AXES[measure]), "yaxis": axis(_figure_title(judge))}))
    return found


def times(rows: Sequence[Row]) -> Figure | None:
    """Draw from the median to the 90th percentile of each file's latency, the fastest files first."""
    timed = sorted(rows, key=lambda row: row["latency_ms"]["median"])
    shown, left = timed[:_MOST_TIMES], timed[_MOST_TIMES:]
    if not shown:
        return None
    text, lines = names_above([row["name"] for row in shown])
    data = [text]
    for format_ in dict.fromkeys(row["format"] for row in shown):
        places = [(number, row) for number, row in enumerate(shown) if row["format"] == format_]
        spread = [row["latency_ms"]["p90"] - row["latency_ms"]["median"] for _, row in places]
        said = [_spread(row) for _, row in places]
        error = {"type": "data", "symmetric": False, "array": spread, "arrayminus": [0] * len(spread), "thickness": 4}
        x, y = [row["latency_ms"]["median"] for _, row in places], [number + 0.06 for number, _ in places]
        data.append(points(FORMATS[format_], FORMAT_COLORS[format_], x, y, said, error_x=error | {"width": 0}))
    notes = ["From the median to the 90th percentile of one inference at batch 1."]
    if left:
        notes.append(f"The {len(shown)} fastest files; {len(left)} slower ones are in the table.")
    layout = {"xaxis": log("latency [ms]"), "xaxis2": EDGE, "yaxis": lines}
    label = f"Spread of latency. {'; '.join(_spread(row) for row in shown)}"
    return Figure("Spread of latency", label, data, layout, notes, 70 + 36 * len(shown))


def ladder(rows: Sequence[Row]) -> list[Figure]:
    """Draw the ladder when the rows are those of ``torchshrink sweep``."""
    if not any(RUNG.fullmatch(row["variant"]) for row in rows):
        return []
    found = []
    for title, read in PANELS.items():
        data = []
        for (kind, file), steps in series(rows).items():
            x, y = [amount for amount, _ in steps], [read(row) for _, row in steps]
            said = [f"{row['name']}: {figure:.4g}" for (_, row), figure in zip(steps, y, strict=True)]
            color = FILE_COLORS[file]
            dash = {"color": color, "width": 1.5, "dash": "solid" if kind == "weights" else "dash"}
            data.append(line(f"{kind}: {file}", color, x, y, said, mode="lines+markers", line=dash))
        layout = {
            "xaxis": axis("removed: weights set to zero, or channels [%]"),
            "yaxis": axis("") | ({} if title == "test loss" else {"rangemode": "tozero"}),
        }
        label = f"{title} against the share of weights or channels removed"
        found.append(Figure(title[0].upper() + title[1:], label, data, layout))
    return found


def _pareto(rows: Sequence[Row], measure: str, judge: Judge, failed: Sequence[Failure], ship: Row | None) -> Figure:
    best = front(rows, measure, judge)
    data = [_front(best, measure, judge)]
    kinds = dict.fromkeys((row["format"], row["precision"]) for row in rows)
    for format_, precision in kinds:
        same = [row for row in rows if (row["format"], row["precision"]) == (format_, precision)]
        symbol, sign = SYMBOLS.get(precision, _OTHER)
        marker = {"color": FORMAT_COLORS[format_], "size": 9, "symbol": symbol, "opacity": 0.8}
        data.append(_files(f"{FORMATS[format_]} {precision}", same, measure, judge, marker, sign))
    taken = {item.row["name"]: item.row for item in recommend(rows, judge=judge) if item.row}
    ring = {"color": GREY, "size": 16, "symbol": "circle-open", "line": {"width": 2}}
    data.append(_files("recommended", list(taken.values()), measure, judge, ring, "\u25ef"))
    if ship is not None:
        data.append(_files("to ship", [ship], measure, judge, ring | {"size": 22, "symbol": "star-open"}, "\u2606"))
    sized = [item for item in failed if item.get("bytes")]
    if sized and rows:
        data.append(_crosses(sized, rows, judge))
    layout: Trace = {"xaxis": log(_AXES[measure]), "yaxis": axis(_figure_title(judge))}
    dense = reference(rows, "torch")
    if math.isfinite(judge.limit(dense)):
        layout["shapes"] = [limit("y", abs(judge.limit(dense)))]
    label = f"{_AXES[measure]} against {judge.title}. On the front: {', '.join(row['name'] for row in best) or 'none'}"
    notes = [_said(row, measure, judge) for row in best]
    return Figure(f"{_TITLES[measure]} and {judge.decides}", label, data, layout, notes)


def _files(name: str, rows: Sequence[Row], measure: str, judge: Judge, marker: Trace, sign: str) -> Trace:
    x, y = [value(row, measure) for row in rows], [judge.figure(row) for row in rows]
    said = [_said(row, measure, judge) for row in rows]
    return points(name, marker["color"], x, y, said, marker=marker, meta=sign)


def _front(best: Sequence[Row], measure: str, judge: Judge) -> Trace:
    """Return the line through the files that no other beats, numbered as the list under the figure."""
    x, y = [value(row, measure) for row in best], [judge.figure(row) for row in best]
    style = {"color": GREY, "width": 1, "dash": "dash", "shape": "hv"}
    numbers = [str(number) for number in range(1, len(best) + 1)]
    more: Trace = {
        "text": numbers,
        "textposition": "bottom left",
        "hoverinfo": "skip",
        "marker": {"size": 16, "opacity": 0},
    }
    return line("front", GREY, x, y, line=style, meta="\u254c", mode="lines+markers+text", **more)


def _crosses(failed: Sequence[Failure], rows: Sequence[Row], judge: Judge) -> Trace:
    """Return where failed files are drawn: at their size, as bad as the worst of the others."""
    known = [row for row in rows if math.isfinite(judge.cost(row))]
    worst = judge.figure(max(known, key=judge.cost)) if known else math.nan
    said = [f"{item['name']} failed: {item['reason']:.200}" for item in failed]
    marker = {"color": "#e03131", "size": 11, "symbol": "x-thin-open", "line": {"width": 2}}
    x = [item["bytes"] / 1e6 for item in failed]
    return points("failed", "#e03131", x, [worst] * len(x), said, marker=marker, meta="\u2715")


def _figure_title(judge: Judge) -> str:
    return f"{judge.title}{judge.unit and f' [{judge.unit}]'}"


def _said(row: Row, measure: str, judge: Judge) -> str:
    unit = "ms" if measure == "latency" else "MB"
    return f"{row['name']}: {value(row, measure):.4g} {unit}, {judge.decides} {judge.text(judge.figure(row))}"


def _spread(row: Row) -> str:
    return f"{row['name']}: median {row['latency_ms']['median']:.3g} ms, 90 % within {row['latency_ms']['p90']:.3g} ms"
