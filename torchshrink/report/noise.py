"""What is said of quantized graphs: how far each is from the module that it was made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torchshrink.report.schema import Row, TensorNoise

_MOST = 3  # tensors that a sentence names


def of_rows(rows: Sequence[Row]) -> dict[str, list[TensorNoise]]:
    """Return by variant what is known of its int8 graph, which all of its int8 files were made of."""
    return {row["variant"]: found for row in rows if (found := row.get("graph_noise"))}


def said_of_graph(found: Sequence[TensorNoise]) -> str:
    """Return a sentence: the signal to noise of every output, and where it is least."""
    outputs = ", ".join(_text(each) for each in found if each["is_output"])
    layers = sorted((each for each in found if not each["is_output"]), key=_db)[:_MOST]
    least = f"; least in {', '.join(_text(each) for each in layers)}" if layers else ""
    return f"the int8 graph against its module: signal to noise {outputs or 'not known'}{least}"


def said_of_low(found: Sequence[TensorNoise]) -> str:
    """Return a sentence when an output has too little: which, the first tensor that has, why, and what helps."""
    low = [each for each in found if each["reason"]]
    ends = [each for each in low if each["is_output"]]
    if not ends:
        return ""
    return (
        f"the int8 graph is far from its module: {_text(ends[0])}; the first tensor with too little is "
        f"{_text(low[0])}, likely for {low[0]['reason']}: {low[0]['cure']}"
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
    found = [_db(each) for each in row.get("graph_noise", []) if each["is_output"]]
    return min((value for value in found if math.isfinite(value)), default=None)


def _text(each: Mapping[str, object]) -> str:
    value = each["snr_db"]
    return f"{each['name']} {'exact' if value is None else f'{value:.1f} dB'}"


def _db(each: TensorNoise) -> float:
    return math.inf if each["snr_db"] is None else each["snr_db"]
