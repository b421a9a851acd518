"""The section of the page that shows a search: its trials, its front, how it went on, and what mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchshrink.report import trials
from torchshrink.report.columns import Cell
from torchshrink.report.html.figure import EDGE, GREY, Figure, Trace, axis, bars, limit, line, log, names_above
from torchshrink.report.html.figure import points as dots
from torchshrink.report.schema import Measure, Search, Trial

COLORS = {"finished": "#2f9e44", "stopped": "#4c8dd6", "infeasible": "#e8590c", "failed": "#868e96", "open": "#9c6ade"}
_AXES = {"size": "size of the file [MB]", "rss": "peak RAM [MB]", "arena": "arena [kB]"}
_BYTES = {"size": 1e6, "arena": 1e3}  # in the unit of the axis
_TITLES: dict[Measure, str] = {"size": "Size and loss", "latency": "Latency and loss", "rss": "RAM and loss",
                               "arena": "Arena and loss"}  # fmt: skip
_ABOVE = 1.6  # times the largest finished loss: what lies higher is drawn at the upper edge


@dataclass(frozen=True)
class SearchSection:
    """What the page shows of a search.

    Attributes:
        summary: What was asked for and found, in words.
        figures: Its trials, how it went on, what mattered.
        headings: Of the table of trials.
        lines: Its cells.
    """

    summary: str
    figures: Sequence[Figure]
    headings: Sequence[str]
    lines: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class _Point:
    """A trial in a picture; a loss of NaN was never known."""

    trial: Trial
    cost: float
    loss: float
    is_final: bool


def search_section(search: Search | None) -> SearchSection | None:
    """Return the section of a report's ``search``; ``None`` for a report without one."""
    if search is None:
        return None
    headings, lines = trials.table(search)
    found = [_tradeoff(search, measure) for measure in _TITLES if measure != "rss" or search["target"] != "micro"]
    figures = [*found, _progress(search), *_importances(search)]
    return SearchSection(trials.summary(search), [each for each in figures if each], headings, lines)


def _points(search: Search, measure: Measure) -> list[_Point]:
    """Return what is known of each trial: of a size also the estimate, of a loss also that of the last rung."""
    found = []
    for trial in search["trials"]:
        cost, increase, last = trial.get(measure), trial["loss_increase"], trials.last_loss(trial)
        if measure == "size":
            cost = cost if trials.is_known(cost) else (trial["estimated"] or {}).get("size")
        loss = increase if trials.is_known(increase) else last[1] if last else math.nan
        if trials.is_known(cost) and cost > 0:
            found.append(_Point(trial, cost / _BYTES.get(measure, 1), loss, trials.is_known(increase)))
    return found


def _tradeoff(search: Search, measure: Measure) -> Figure | None:
    points = _points(search, measure)
    if not points:
        return None
    limits = {key: value for key, value in search["limits"].items() if trials.is_known(value)}
    bottom, top = _range(points, limits.get("loss_increase"))
    data = [_dots(search, measure, [p for p in points if p.trial["state"] == state], top) for state in COLORS]
    data += [_ring(search, measure, points, *each) for each in _rings(search)]
    at = limits.get(measure)
    shapes = [limit("y", limits["loss_increase"])] if "loss_increase" in limits else []
    shapes += [limit("x", at / _BYTES.get(measure, 1))] if at is not None else []
    layout = {
        "xaxis": log(_axis(measure, search)),
        "yaxis": axis("validation loss above the dense model's", range=[bottom, top]),
        "shapes": shapes,
    }
    numbers = [str(point.trial["number"]) for point in points if point.trial["number"] in search["front"]]
    front = ", ".join(numbers) or "none"
    label = f"{_axis(measure, search)} against loss increase of {len(points)} trials. On the front: {front}"
    return Figure(_TITLES[measure], label, [each for each in data if each["x"]], layout)


def _rings(search: Search) -> list[tuple[str, str, int, list[int | None]]]:
    """Return what is ringed, how large, and which trials; where nothing was found there is no front, but a nearest."""
    return [
        ("front", "\u25ef", 15, list(search["front"])),
        ("recommended", "\u25ce", 20, [search["recommended"]]),
        ("nearest", "\u25ce", 20, [search["nearest"]]),
    ]


def _axis(measure: str, search: Search) -> str:
    if measure == "latency":
        return "latency, median [ms]" if search["latency_unit"] == "ms" else "latency / that of the dense file"
    return _AXES[measure]


def _tooltip(point: _Point, measure: str, search: Search) -> str:
    cost = point.cost * _BYTES.get(measure, 1)
    loss = f", loss {point.loss:+.4f}" if math.isfinite(point.loss) else ""
    if math.isfinite(point.loss) and not point.is_final and (last := trials.last_loss(point.trial)):
        loss += f" after {last[0]} epochs"
    found = trials.amount(measure, cost, search["latency_unit"])
    return f"trial {point.trial['number']}, {point.trial['state']}: {found}{loss}"


def _range(points: Sequence[_Point], limit: float | None) -> tuple[float, float]:
    """Return the ends of the axis of losses: all that is final, and the limit; a loss far above would hide them."""
    known = [point.loss for point in points if math.isfinite(point.loss)]
    final = [point.loss for point in points if point.is_final] or known
    low, high = min([0.0, *known]), max([*final, *([limit] if limit is not None else [])], default=0.01)
    high = min(max([high, *known]), max(high, 0.005) * _ABOVE)
    room = 0.08 * max(high - low, 1e-3)
    return low - room, high + 2 * room


def _dots(search: Search, measure: Measure, points: Sequence[_Point], top: float) -> Trace:
    """Return trials: pale where the loss is not final, at the upper edge where it is higher or there is none."""
    color = COLORS[points[0].trial["state"]] if points else GREY
    marker = {
        "color": color,
        "size": 8,
        "symbol": [_symbol(point, top) for point in points],
        "opacity": [0.9 if point.is_final else 0.5 for point in points],
        "line": {"color": color, "width": 1.5},
    }
    losses = [point.loss if point.loss <= top else top for point in points]
    name = points[0].trial["state"] if points else ""
    said = [_tooltip(point, measure, search) for point in points]
    return dots(name, color, [point.cost for point in points], losses, said, marker=marker, cliponaxis=False)


def _symbol(point: _Point, top: float) -> str:
    if not math.isfinite(point.loss):
        return "line-ns"
    return "circle" if point.loss <= top else "triangle-up"


def _ring(
    search: Search, measure: Measure, points: Sequence[_Point], name: str, sign: str, size: int, which: Sequence[Any]
) -> Trace:
    chosen = [point for point in points if point.trial["number"] in which and math.isfinite(point.loss)]
    marker = {"color": GREY, "size": size, "symbol": "circle-open", "line": {"width": 1.5}}
    x, y = [point.cost for point in chosen], [point.loss for point in chosen]
    return dots(name, GREY, x, y, [_tooltip(point, measure, search) for point in chosen], marker=marker, meta=sign)


def _progress(search: Search) -> Figure | None:
    steps = [(time, value) for time, value in search["hypervolume"] if trials.is_known(time + value)]
    if not steps:
        return None
    label = f"Hypervolume of the front over time, {steps[-1][1]:.3g} after {steps[-1][0]:.0f} s"
    note = "Hypervolume: the share of the space of the objectives that the front dominates, 1 at best."
    in_minutes = steps[-1][0] >= 180
    times = [time / 60 if in_minutes else time for time, _ in steps]
    said = [f"{value:.3g} after {time:.0f} s" for time, value in steps]
    style = {"color": COLORS["stopped"], "width": 2, "shape": "hv"}
    data = [line("", COLORS["stopped"], times, [value for _, value in steps], said, line=style)]
    layout = {
        "xaxis": axis("time [min]" if in_minutes else "time [s]", rangemode="tozero"),
        "yaxis": axis("hypervolume of the front", rangemode="tozero"),
    }
    return Figure("Best so far", label, data, layout, [note])


def _importances(search: Search) -> list[Figure]:
    return [_shares(trials.name(measure), shares) for measure, shares in trials.importances(search).items()]


def _shares(of: str, shares: Mapping[str, float]) -> Figure:
    words = [f"{name} {share:.0%}" for name, share in shares.items()]
    text, lines = names_above([name.replace("_", " ") for name in shares])
    places = [number + 0.12 for number in range(len(shares))]
    data = [text, bars("", COLORS["stopped"], [100 * share for share in shares.values()], places, words,
                       orientation="h", width=0.4)]  # fmt: skip
    layout = {"xaxis": axis("share of the differences [%]", rangemode="tozero"), "xaxis2": EDGE, "yaxis": lines}
    title = f"What explains the {of}"
    return Figure(title, f"{title}: {', '.join(words)}", data, layout, (), 90 + 34 * len(shares))
