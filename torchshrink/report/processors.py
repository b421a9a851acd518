"""What a report says of processors: on which a file was shown to be right, and whether int8 saves any time there."""

from __future__ import annotations

from collections.abc import Sequence

from torchshrink.report.schema import Environment, Row
from torchshrink.report.tradeoff import NOISE

_HERE = "here"
_MOST_NAMES = 3
_RUNTIMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}
Pair = tuple[Row, Row]


def machine(environment: Environment) -> str:
    """Name the processor that measured, and what it has for int8 where that is known."""
    instructions = ", ".join(environment.get("instructions") or ())
    lacking = "" if environment.get("int8_dot_products", True) else " (no int8 dot products)"
    return f"{environment['processor']}{f' with {instructions}' if instructions else ''}{lacking}"


def shown_on(rows: Sequence[Row]) -> str:
    """Say on which processors files were shown to be right."""
    files: dict[str, list[str]] = {}
    for row in rows:
        if others := [kind for kind in row.get("processors", {}) if kind != _HERE]:
            files.setdefault(" and ".join(others), []).append(row["name"])
    if not files:
        return "every file was shown to be right on this one, and tried on no other (recipes: processors)."
    listed = "; ".join(f"on {kinds}: {', '.join(names)}" for kinds, names in files.items())
    return f"every file was shown to be right on this one; emulated, with one test input, also {listed}."


def slow_int8(rows: Sequence[Row]) -> list[Pair]:
    """Return each int8 file that is not faster than its float counterpart, with that.

    The counterpart is the fastest fp32 file of the same format and variant; of one that was never float, as a trained
    int8 variant, that of the same multiply-accumulates. A difference within the noise is none.
    """
    pairs = []
    for row in rows:
        floats = [each for each in rows if (each["format"], each["precision"]) == (row["format"], "fp32")]
        alike = [each for each in floats if each["variant"] == row["variant"]]
        alike = alike or [each for each in floats if each["macs"] == row["macs"]]
        if row["precision"] == "int8" and alike:
            fastest = min(alike, key=_ms)
            if _ms(row) > _ms(fastest) * (1 - NOISE["latency"]):
                pairs.append((row, fastest))
    return pairs


def said_of_speed(rows: Sequence[Row], environment: Environment) -> list[str]:
    """Return a sentence for each format of which int8 files save no time: how many, why, and what to ship instead.

    Where int8 has no float file beside it and the processor nothing that makes it fast, a sentence says that too.
    """
    pairs = slow_int8(rows)
    formats = dict.fromkeys(row["format"] for row, _ in pairs)
    said = [saves_no_time([pair for pair in pairs if pair[0]["format"] == each], environment) for each in formats]
    return [*said, *_untold(rows, environment)]


def _untold(rows: Sequence[Row], environment: Environment) -> list[str]:
    """Say of which formats there is nothing to compare int8 with, on a processor without int8 dot products."""
    floats = {row["format"] for row in rows if row["precision"] == "fp32"}
    alone = [row for row in rows if row["precision"] == "int8" and row["format"] not in floats]
    if not alone or environment.get("int8_dot_products", True):
        return []
    return [
        f"{_named(alone)}: int8 may save no time on this processor ({_reason(environment).removesuffix('; ')}), and no "
        "float file was measured beside it: add fp32 to the precisions."
    ]


def saves_no_time(pairs: Sequence[Pair], environment: Environment) -> str:
    """Return the sentence for files of one format, from `slow_int8`."""
    runtime = _RUNTIMES.get(pairs[0][0]["format"], "PyTorch")
    smaller = _between([float_["bytes"] / row["bytes"] for row, float_ in pairs])
    slower = _between([_ms(row) / _ms(float_) for row, float_ in pairs])
    saved = (
        f"saves {smaller} bytes and no time"
        if min(f["bytes"] / r["bytes"] for r, f in pairs) > 1
        else "saves neither bytes nor time"
    )
    return (
        f"{_named([row for row, _ in pairs])}: int8 {saved} in {runtime} on this processor ({_reason(environment)}"
        f"{slower} the time of float): for speed there ship {_named([float_ for _, float_ in pairs])}, "
        "or remove channels."
    )


def _reason(environment: Environment) -> str:
    if environment.get("int8_dot_products", True):
        return ""
    best = (environment.get("instructions") or [""])[-1]
    return f"no int8 dot products{f': {best} only' if best else ''}; "


def _named(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(row["name"] for row in rows))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more}"


def _between(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.1f}x", f"{max(ratios):.1f}x"
    return low if low == high else f"{low} to {high}"


def _ms(row: Row) -> float:
    return row["latency_ms"]["median"]
