"""A figure of the page: what plotly.js, which the page carries, is given to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GREY = "#7d8590"  # of lines that are no file's; told from the page in light and dark
COLORS = ("#4c8dd6", "#e8590c", "#2f9e44", "#9c6ade", "#d6336c", "#0c8599", "#b08900", "#868e96")
Trace = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A figure and what stands around it.

    Attributes:
        title: Its heading.
        label: What it shows, for those who cannot see it.
        data: Traces of plotly.js; those of one ``name`` are switched by one button, whose sign is their ``meta``.
        layout: Its axes and lines.
        notes: Stand under it.
        height: In pixels.
    """

    title: str
    label: str
    data: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    height: int = 320

    @property
    def spec(self) -> Any:
        """What is drawn, as JSON has it."""
        return _json({"data": self.data, "layout": self.layout})


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with its title, if any."""
    return {"title": {"text": plain(title)}, **more} if title else more


def log(title: str, **more: Any) -> dict[str, Any]:
    """Return a logarithmic axis that writes numbers, not powers of ten."""
    return axis(title, type="log", tickformat="~g", nticks=3, **more)


def points(name: str, color: str, x: Any, y: Any, said: Sequence[str], **more: Any) -> Trace:
    """Return a trace of dots that say something each."""
    return {
        "name": name,
        "mode": "markers",
        "x": x,
        "y": y,
        **_hover(said),
        "marker": {"color": color, "size": 9},
    } | more


def line(name: str, color: str, x: Any, y: Any, said: Sequence[str] = (), **more: Any) -> Trace:
    """Return a trace of a line; without words it says its numbers."""
    return {"name": name, "mode": "lines", "x": x, "y": y, "line": {"color": color, "width": 1.5}} | _hover(said) | more


def bars(name: str, color: str, x: Any, y: Any, said: Sequence[str] = (), **more: Any) -> Trace:
    """Return a trace of bars."""
    return {"name": name, "type": "bar", "x": x, "y": y, "marker": {"color": color}} | _hover(said) | more


def signal_line(name: str, color: str, values: Any) -> Trace:
    """Return a trace of a signal's points, which lie at halves: a point is as wide as its sample."""
    at = {"x0": 0.5, "dx": 1, "line": {"color": color, "width": 1}, "hovertemplate": "%{y:.4~g}<extra></extra>"}
    return {"name": name, "mode": "lines", "y": [float(f"{value:.4g}") for value in values], **at}


def channels(signal: Any) -> list[Trace]:
    """Return traces of the first channels of a signal ``[C, L]``."""
    return [
        signal_line(f"channel {number + 1}" if len(signal) > 1 else "input", COLORS[number], each)
        for number, each in enumerate(signal[:3])
    ]


def limit(axis_name: str, at: float) -> dict[str, Any]:
    """Return a dashed line across a figure, at a value of its ``x`` or ``y`` axis."""
    other = "y" if axis_name == "x" else "x"
    ends = {f"{axis_name}0": at, f"{axis_name}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    return {"type": "line", "line": {"color": GREY, "width": 1, "dash": "dash"}, **ends}


def names_above(names: Sequence[str], longest: int = 44) -> tuple[Trace, dict[str, Any]]:
    """Return names over the lines 0, 1, 2 of a figure, and its axis: beside them they would take a phone's width."""
    short = [name if len(name) <= longest else f"\u2026{name[1 - longest :]}" for name in names]  # the end tells apart
    places = [number - 0.36 for number in range(len(names))]
    text: Trace = {
        "mode": "text",
        "x": [0] * len(names),
        "xaxis": "x2",  # stays at the edge when the figure is zoomed
        "y": places,
        "text": [plain(name) for name in short],
        "textposition": "middle right",
        "hoverinfo": "skip",
        "cliponaxis": False,
    }
    return text, {"range": [len(names) - 0.35, -0.7], "showticklabels": False, "showgrid": False, "fixedrange": True}


def plain(text: Any) -> str:
    """Return text in which plotly.js finds no tags and no entities.

    >>> plain("a<b>&lt;")
    'a&lt;b&gt;&amp;lt;'
    """
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _hover(said: Sequence[str]) -> Trace:
    return {"hoverinfo": "text", "hovertext": [plain(text) for text in said]} if len(said) else {}


def _json(value: Any) -> Any:
    """Return lists and numbers of Python, six digits of each, null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _json(value.tolist())
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


SAMPLES = {"xaxis": axis("sample"), "yaxis": axis("")}  # axes of a signal
EDGE = {"overlaying": "x", "range": [0, 1], "visible": False, "fixedrange": True}  # the second axis of `names_above`
