"""The page about operators: what int8 makes of the time of each, and which are slower than in float."""

from __future__ import annotations

import platform
import textwrap
from importlib.metadata import version
from typing import Any

import speed_alone
import speed_cases
from speed_work import FILES, ROUNDS, RUNS

from torchshrink.bench.environment import environment

NOISE = 1.1  # times the float time: what is slower by less is not marked as such
INTRODUCTION = (
    "Every operator that the quantizer annotates (`torchshrink/quantize/operators.py`), as torchshrink exports it: "
    "between two 1x1 convolutions of {channels} channels on {size}x{size}, calibrated, on one thread. A figure is the "
    "time of what lies between the convolutions, int8 / float: **above 1 int8 is the slower**. Float and int8 take "
    "turns {rounds} times; each figure is the least of its medians of {runs} inferences. LiteRT's operators are timed "
    "one by one with its default delegate XNNPACK, ONNX Runtime's by its profiler. *fused*: in int8 nothing "
    "is left between the convolutions, -: in float. Made by `scripts/operator_speed`.",
    "Operators of a few microseconds say little about time, and every figure is of this processor; which operators "
    "leave XNNPACK is the same on all. The last rows are operators of TFLite alone, as files of other tools hold them. "
    "One-dimensional operators are their two-dimensional forms, of height 1.",
    "Hard-swish, tried in a small MobileNetV3-like net (five of them; tenth percentile of 1,500 inferences taken in "
    "turns, three times, AVX2 and no VNNI): computed in float between a DEQUANTIZE and a QUANTIZE, as here, the int8 "
    "file takes 1.36 to 1.41x the time of the float one, and with ReLU in its place 1.38 to 1.45x: the time is that "
    "of its convolutions of 16 channels, not of hard-swish. Written as sums and products it took 1.3x as long as "
    "this, with the int8 kernel HARD_SWISH 4x.",
)
Row = dict[str, Any]


def write(rows: list[Row]) -> str:
    """Return the page."""
    machine = environment()
    measured = [row for row in rows if "error" not in row]
    order = [*speed_cases.CASES, *speed_alone.NAMES]
    measured.sort(key=lambda row: order.index(row["name"]))
    facts = {"channels": speed_cases.CHANNELS, "size": speed_cases.SIZE, "rounds": ROUNDS, "runs": RUNS}
    versions = ", ".join(f"{name} {version(name)}" for name in ("ai-edge-litert", "onnxruntime", "torch"))
    instructions = ", ".join(machine["instructions"])
    dots = "has" if machine["int8_dot_products"] else "has no"
    lines = [
        "# Operators: int8 against float\n",
        *(f"{textwrap.fill(part.format(**facts), 120)}\n" for part in INTRODUCTION),
        f"Machine: {machine['processor']} with {instructions}; it {dots} int8 dot products. {versions}, "
        f"Python {platform.python_version()}.\n",
        "| operator | LiteRT | | of it outside XNNPACK | ONNX Runtime | |",
        "|---|---:|---|---|---:|---|",
        *map(_line, measured),
        "",
        *(f"Slower in int8, {runtime}: {_listed(slower(measured, ending))}\n" for ending, runtime in FILES.items()),
        f"Outside XNNPACK in int8: {_listed([row['name'] for row in measured if row['outside']])}",
        *(f"\nNot measured: {row['name']}, {row['error']}" for row in rows if "error" in row),
        *(f"\nNot measured yet: {name}" for name in order if name not in {row["name"] for row in rows}),
    ]
    return "\n".join(lines).rstrip() + "\n"


def ratio(row: Row, ending: str) -> float | None:
    """Return int8's time by float's; None where either is computed with a convolution, or was not measured."""
    if ending not in row:
        return None
    ours, before = (row[ending][precision]["us"] for precision in ("int8", "float"))
    return ours / before if ours and before else None


def slower(rows: list[Row], ending: str) -> list[str]:
    """Return the operators whose int8 form takes longer than their float form."""
    return [row["name"] for row in rows if (ratio(row, ending) or 0) > NOISE]


def _line(row: Row) -> str:
    cells = [row["name"], *_cells(row, "tflite"), ", ".join(row["outside"]), *_cells(row, "onnx")]
    return f"| {' | '.join(cells)} |"


def _cells(row: Row, ending: str) -> tuple[str, str]:
    if ending not in row:
        return "", ""
    found, times = ratio(row, ending), row[ending]
    kinds = ", ".join(dict.fromkeys(times["int8"]["kinds"]))
    spent = f"{times['int8']['us']:.1f} / {times['float']['us']:.1f} us"
    if not times["int8"]["us"]:
        return "fused", ""
    if found is None:
        return "-", f"{spent}: {kinds}"
    shown = f"{found:.2f}" if found <= NOISE else f"**{found:.2f}**"
    return shown, f"{spent}: {kinds}"


def _listed(names: list[str]) -> str:
    return f"{'; '.join(names)}." if names else "none."
