"""What is said of quantized graphs: how far each is from the module that it was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchshrink.report.schema import Row, TensorNoise

_MOST = 3  # tensors that a sentence names
HEADINGS = ("tensor", "alone", "accumulated", "likely reason", "what helps")


def of_rows(rows: Sequence[Row]) -> dict[str, list[TensorNoise]]:
    """Return by variant what is known of its int8 graph, which all of its int8 files were made of."""
    return {row["variant"]: found for row in rows if (found := row.get("graph_noise"))}


def cells(found: Sequence[TensorNoise]) -> list[tuple[str, ...]]:
    """Return a line of a table for every tensor, in the order of computation: a cell for each of `HEADINGS`.

    Alone is what a module makes of inputs in float; in what is accumulated is all that was computed before it, too.
    """
    return [
        (
            f"{each['name']} (output)" if each["is_output"] else each["name"],
            _figure(each["alone_db"]) if "alone_db" in each else "",
            _figure(each["snr_db"]),
            each["reason"],
            each["cure"],
        )
        for each in found
    ]


def said_of_graph(found: Sequence[TensorNoise]) -> str:
    """Return a sentence: the signal to noise of every output, where it is least, and which modules cost most alone."""
    outputs = ", ".join(_text(each["name"], each["snr_db"]) for each in found if each["is_output"])
    said = f"the int8 graph against its module: signal to noise {outputs or 'not known'}"
    layers = [(each["name"], each["snr_db"]) for each in found if not each["is_output"]]
    own = [(each["name"], each["alone_db"]) for each in found if "alone_db" in each]
    for what, figures in (("least in", layers), ("alone least in", own)):
        worst = sorted(figures, key=lambda item: _db(item[1]))[:_MOST]
        said += f"; {what} {', '.join(_text(*each) for each in worst)}" if worst else ""
    return said


def said_of_low(found: Sequence[TensorNoise]) -> str:
    """Return a sentence when an output has too little: which, the first tensor that has, why, and what helps."""
    low = [each for each in found if each["reason"]]
    ends = [each for each in low if each["is_output"]]
    if not ends:
        return ""
    end, first = (_text(each["name"], each["snr_db"]) for each in (ends[0], low[0]))
    return (
        f"the int8 graph is far from its module: {end}; the first tensor with too little is {first}, likely for "
        f"{low[0]['reason']}: {low[0]['cure']}"
    )


def conditions(rows: Sequence[Row]) -> dict[str, str]:
    """Return what a report says of how it was measured; nothing where no int8 graph is known."""
    said = [f"{variant}: {said_of_graph(found)}." for variant, found in of_rows(rows).items()]
    return {"Quantization": " ".join(said)} if said else {}


def warnings(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each variant whose int8 graph is far from its module."""
    return [f"{variant}: {said}." for variant, found in of_rows(rows).items() if (said := said_of_low(found))]


def worst_db(row: Row) -> float | None:
    """Return the signal to noise of the worst output of a file's int8 graph; None where it is not known or infinite."""
    found = [_db(each["snr_db"]) for each in row.get("graph_noise", []) if each["is_output"]]
    return min((value for value in found if math.isfinite(value)), default=None)


def _text(name: str, value: float | None) -> str:
    return f"{name} {_figure(value)}"


def _figure(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def _db(value: float | None) -> float:
    return math.inf if value is None else value
