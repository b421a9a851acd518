"""The section of the page that shows a search: its trials, its front, how it went on, and what mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchshrink.report import trials
from torchshrink.report.columns import Cell
from torchshrink.report.html import svg
from torchshrink.report.html.plots import Plot, ticks
from torchshrink.report.schema import Measure, Search, Trial

COLORS = {"finished": "#2f9e44", "stopped": "#4c8dd6", "infeasible": "#e8590c", "failed": "#868e96", "open": "#9c6ade"}
_AXES = {"size": "size of the file [MB]", "rss": "peak RAM [MB]", "arena": "arena [kB]"}
_BYTES = {"size": 1e6, "arena": 1e3}  # in the unit of the axis
_TITLES: dict[Measure, str] = {"size": "Size and loss", "latency": "Latency and loss", "rss": "RAM and loss",
                               "arena": "Arena and loss"}  # fmt: skip
_LONGEST_NAME = 26
_ABOVE = 1.6  # times the largest finished loss: what lies higher is drawn at the upper edge


@dataclass(frozen=True)
class SearchSection:
    """What the page shows of a search.

    Attributes:
        summary: What was asked for and found, in words.
        plots: Pictures.
        legend: Colours and the states of trials that they stand for.
        headings: Of the table of trials.
        lines: Its cells.
    """

    summary: str
    plots: Sequence[Plot]
    legend: Sequence[tuple[str, str]]
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
    pictures = [*found, _progress(search), *_importances(search)]
    states = {trial["state"] for trial in search["trials"]}
    legend = [(color, state) for state, color in COLORS.items() if state in states]
    return SearchSection(trials.summary(search), [each for each in pictures if each], legend, headings, lines)


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


def _tradeoff(search: Search, measure: Measure) -> Plot | None:
    points = _points(search, measure)
    if not points:
        return None
    titles = {f"trial-{point.trial['number']}": _tooltip(point, measure, search) for point in points}
    front = [point for point in points if point.trial["number"] in search["front"]]
    numbers = ", ".join(str(point.trial["number"]) for point in front) or "none"
    label = f"{_axis(measure, search)} against loss increase of {len(points)} trials. On the front: {numbers}"
    picture = svg.embed(lambda path: _draw(search, points, measure, path), f"search-{measure}", label, titles)
    return Plot(_TITLES[measure], picture)


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


def _draw(search: Search, points: Sequence[_Point], measure: str, path: Path) -> None:
    """Draw trials as dots, pale where the loss is not final, as a tick above where there is none; limits as lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(4.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    limits = {key: value for key, value in search["limits"].items() if trials.is_known(value)}
    bottom, top = _range(points, limits.get("loss_increase"))
    for point in points:
        _draw_point(axes, point, top)
    style: dict[str, Any] = {"color": svg.ink(), "linewidth": 0.9, "linestyle": (0, (4, 3)), "alpha": 0.8}
    costs = [point.cost for point in points]
    if "loss_increase" in limits:
        axes.axhline(limits["loss_increase"], **style)
    if measure in limits:
        costs.append(limits[measure] / _BYTES.get(measure, 1))
        axes.axvline(costs[-1], **style)
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.15, max(costs) * 1.15)
    axes.set_ylim(bottom, top)
    _draw_front(axes, search, points)
    axes.xaxis.set_major_locator(FixedLocator(ticks(costs)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.set_xlabel(_axis(measure, search))
    axes.set_ylabel("validation loss above the dense model's")
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    svg.save(figure, path)


def _range(points: Sequence[_Point], limit: float | None) -> tuple[float, float]:
    """Return the ends of the axis of losses: all that is final, and the limit; a loss far above would hide them."""
    known = [point.loss for point in points if math.isfinite(point.loss)]
    final = [point.loss for point in points if point.is_final] or known
    low, high = min([0.0, *known]), max([*final, *([limit] if limit is not None else [])], default=0.01)
    high = min(max([high, *known]), max(high, 0.005) * _ABOVE)
    room = 0.08 * max(high - low, 1e-3)
    return low - room, high + 2 * room


def _draw_point(axes: Any, point: _Point, top: float) -> None:
    color, gid = COLORS.get(point.trial["state"], "#888888"), f"trial-{point.trial['number']}"
    if not math.isfinite(point.loss):
        marker, loss = "|", top
    elif point.loss > top:
        marker, loss = "^", top
    else:
        marker, loss = "o", point.loss
    style: dict[str, Any] = {"linewidths": 1.2} if marker == "|" else {"linewidths": 0}
    alpha = 0.9 if point.is_final else 0.5
    axes.scatter(point.cost, loss, marker=marker, s=34, c=color, alpha=alpha, gid=gid, clip_on=False, zorder=3, **style)


def _draw_front(axes: Any, search: Search, points: Sequence[_Point]) -> None:
    """Ring the trials of the front, the recommended one twice, and number those that stand apart.

    Where nothing was found there is no front: the nearest trial is ringed.
    """
    numbers = {search["recommended"], search["nearest"], *search["front"]}
    chosen = [point for point in points if point.trial["number"] in numbers and math.isfinite(point.loss)]
    chosen.sort(key=lambda point: point.trial["number"] != search["recommended"])
    numbered: list[tuple[float, float]] = []
    for point in chosen:
        is_recommended = point.trial["number"] == search["recommended"]
        for area in (110, 210)[: 1 + is_recommended]:
            ring = {"facecolors": "none", "edgecolors": svg.ink(), "linewidths": 1, "zorder": 4}
            axes.scatter(point.cost, point.loss, marker="o", s=area, **ring)
        x, y = axes.transAxes.inverted().transform(axes.transData.transform((point.cost, point.loss)))
        if any(abs(x - other) < 0.08 and abs(y - below) < 0.06 for other, below in numbered):
            continue
        numbered.append((x, y))
        style: dict[str, Any] = {"fontsize": 8.5, "fontweight": "bold" if is_recommended else "normal", "zorder": 5}
        text = str(point.trial["number"])
        axes.annotate(text, (point.cost, point.loss), (-7, -15), textcoords="offset points", ha="right", **style)


def _progress(search: Search) -> Plot | None:
    steps = [(time, value) for time, value in search["hypervolume"] if trials.is_known(time + value)]
    if not steps:
        return None
    label = f"Hypervolume of the front over time, {steps[-1][1]:.3g} after {steps[-1][0]:.0f} s"
    picture = svg.embed(lambda path: _draw_progress(steps, path), "search-progress", label)
    note = "Hypervolume: the share of the space of the objectives that the front dominates, 1 at best."
    return Plot("Best so far", picture, [note])


def _draw_progress(steps: Sequence[tuple[float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    in_minutes = steps[-1][0] >= 180
    figure = Figure(figsize=(4.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    times = [time / 60 if in_minutes else time for time, _ in steps]
    axes.plot(times, [value for _, value in steps], drawstyle="steps-post", color=COLORS["stopped"], linewidth=1.8)
    axes.scatter(times[-1], steps[-1][1], s=26, color=COLORS["stopped"], linewidths=0)
    axes.set_xlim(left=0)
    axes.set_ylim(0, max(0.1, 1.08 * max(value for _, value in steps)))
    axes.set_xlabel("time [min]" if in_minutes else "time [s]")
    axes.set_ylabel("hypervolume of the front")
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    svg.save(figure, path)


def _importances(search: Search) -> list[Plot]:
    found = []
    for index, (measure, shares) in enumerate(trials.importances(search).items()):
        words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        label = f"What explains the {trials.name(measure)}: {words}"
        picture = svg.embed(lambda path, s=shares: _draw_shares(s, path), f"search-importance-{index}", label)  # type: ignore[misc]
        found.append(Plot(f"What explains the {trials.name(measure)}", picture))
    return found


def _draw_shares(shares: Mapping[str, float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 0.7 + 0.27 * max(len(shares), 3)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(shares))
    axes.barh(places, [100 * share for share in shares.values()], height=0.66, color=COLORS["stopped"])
    for place, share in zip(places, shares.values(), strict=True):
        axes.text(100 * share, place, f" {share:.0%}", va="center", fontsize=8)
    axes.set_yticks(places, [_short(name) for name in shares], fontsize=8.5)
    axes.set_ylim(max(len(shares), 3) - 0.4, -0.6)
    axes.set_xlim(0, 100 * max([*shares.values(), 0.01]) * 1.14)
    axes.set_xlabel("share of the differences [%]")
    axes.tick_params(axis="y", length=0)
    svg.save(figure, path)


def _short(name: str) -> str:
    text = name.replace("_", " ")
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}\u2026"
