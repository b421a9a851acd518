"""Write the figures as a page: tables with ratios to the smallest model, and what each cost grows with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import growth
from work import BATCH, SAMPLES, SIZE, TRIAL_SAMPLES

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]
DRIVERS = {"parameters": "parameters", "multiply-accumulates": "macs", "activations": "activations"}
PARAMETERS, _, ACTIVATIONS = DRIVERS
Explain = Callable[[Sequence[float], Mapping[str, Sequence[float]]], tuple[str, str]]
_SURE = 0.15  # relative error up to which one driver is said to describe a cost


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        title: What was measured.
        stage: In which process.
        key: Which of its figures.
        why: What the cost consists of.
        share: What the figure is divided by.
    """

    title: str
    stage: str
    key: str
    why: str
    share: float = 1.0


TIMES = (
    Row(f"training step, {BATCH} samples", "train", "cpu_seconds", "convolutions, forward and backward, are the work"),
    Row("training step, per sample", "train", "cpu_seconds", "the step shared out", BATCH),
    Row(
        f"QAT step, {BATCH} samples",
        "qat",
        "cpu_seconds",
        "convolutions in float32, and on top of them the fake quantization, which goes over every activation",
    ),
    Row("QAT step, per sample", "qat", "cpu_seconds", "the step shared out", BATCH),
    Row(
        "prepare_qat",
        "quantize",
        "prepare_cpu_seconds",
        "a graph is traced and rewritten, the same for any widths; the largest has a level more, and more to copy",
    ),
    Row(
        "convert",
        "quantize",
        "convert_cpu_seconds",
        "every weight is rounded to its grid, on top of what the operations take",
    ),
    Row("ONNX fp32", "onnx-fp32", "cpu_seconds", "tracing a graph, then copies of every weight"),
    Row("ONNX int8", "onnx-int8", "cpu_seconds", "tracing a graph takes it all: the weights are a quarter as large"),
    Row(
        "TFLite fp32", "tflite-fp32", "cpu_seconds", "TensorFlow starts once, then every weight goes through its graphs"
    ),
    Row(
        "TFLite int8",
        "tflite-int8",
        "cpu_seconds",
        "as fp32, then tensors are matched by their values: the float model runs once and keeps all its activations",
    ),
    Row(f"verify TFLite fp32, {SAMPLES} samples", "verify-fp32", "cpu_seconds", "inference in PyTorch and in LiteRT"),
    Row(f"verify TFLite int8, {SAMPLES} samples", "verify-int8", "cpu_seconds", "inference in PyTorch and in LiteRT"),
    Row(
        "measure TFLite fp32 and int8, 50 runs each",
        "measure",
        "cpu_seconds",
        "inference in LiteRT, and two starts of a process for each file",
    ),
    Row(
        "a candidate of a search without its training",
        "trial",
        "cpu_seconds",
        "calibrating and comparing run the model, converting copies its weights",
    ),
)
_TRAINING = (
    "outputs of every layer are kept for the backward pass; weights, gradients and Adam's two moments come on top"
)
_COPIES = "several copies of the weights are alive at once"
MEMORY = (
    Row("model made, saved, one inference", "model", "peak_mb", "weights and their copies, after Python and torch"),
    Row("training", "train", "peak_mb", _TRAINING),
    Row(
        "QAT",
        "qat",
        "peak_mb",
        "as training, in float32 instead of bfloat16, and with what fake quantization keeps of every tensor",
    ),
    Row("prepare_qat + convert", "quantize", "peak_mb", f"{_COPIES}, and two samples are run"),
    Row("ONNX fp32", "onnx-fp32", "peak_mb", _COPIES),
    Row("ONNX int8", "onnx-int8", "peak_mb", _COPIES),
    Row(
        "TFLite fp32: own process",
        "tflite-fp32",
        "peak_mb",
        "files are read, rewritten, compared by their values and written as a whole",
    ),
    Row("TFLite fp32: TensorFlow's process", "tflite-fp32", "converter_mb", f"TensorFlow, and {_COPIES}"),
    Row("TFLite int8: own process", "tflite-int8", "peak_mb", "the float model runs once and keeps all activations"),
    Row("TFLite int8: TensorFlow's process", "tflite-int8", "converter_mb", f"TensorFlow, and {_COPIES}, as float32"),
    Row("verify int8: own process", "verify-int8", "peak_mb", "the model in PyTorch, without gradients"),
    Row("verify int8: LiteRT's process", "verify-int8", "runtime_mb", "the file, and what is alive of the activations"),
    Row("verify fp32: LiteRT's process", "verify-fp32", "runtime_mb", "the file, its weights packed for the kernels"),
    Row("a candidate of a search: own process", "trial", "peak_mb", "calibrating and converting in one process"),
)
SIZES = (
    Row("checkpoint, fp32", "model", "bytes", "4 bytes for each"),
    Row("checkpoint, int8", "quantize", "bytes", "1 byte for each, and the graph as text"),
    Row("ONNX fp32", "onnx-fp32", "bytes", "4 bytes for each"),
    Row("ONNX int8", "onnx-int8", "bytes", "1 byte for each"),
    Row("TFLite fp32", "tflite-fp32", "bytes", "4 bytes for each"),
    Row("TFLite int8", "tflite-int8", "bytes", "1 byte for each"),
    Row("a candidate's folder", "trial", "bytes", "two fp32 checkpoints, one of int8, and the int8 file"),
)


def write(figures: Figures, about: Mapping[str, Any]) -> list[str]:
    """Return the lines of the page.

    Args:
        figures: By model and stage, the smallest model first; a stage that failed has an ``error``.
        about: ``machine``, ``date``, ``command``, ``versions`` and ``limit`` (in seconds).
    """
    return [
        "# How cost grows with the size of a model",
        "",
        f"Made on {about['date']} by `{about['command']}` on {about['machine']}; {about['versions']}.",
        "",
        f"U-Nets of three sizes, random weights, images of {SIZE}x{SIZE}, one channel. Every line comes from a fresh "
        f"process with `OMP_NUM_THREADS=1`, which is ended after {about['limit']:g} s of processor time. Times are "
        "processor seconds of all processes of the step together, which other work on the machine hardly changes; on "
        "an idle machine they are the wall time (`figures.json` has both), from after Python and torch are imported. "
        "Peak RAM is the largest resident set of a process from its start to its end; TensorFlow converts and LiteRT "
        "runs in a process of its own, counted separately. No figure has to do with a GPU. In brackets: times the "
        f"figure of the smallest model. {_idleness(figures)}",
        "",
        *_models(figures),
        "",
        "## Time, seconds",
        "",
        f"A training step is the library's own loop; it computes in {_precision(figures, 'train')} here, QAT always in "
        f"float32. A candidate of a search is calibrated on {TRIAL_SAMPLES - 2} samples, exported to int8 TFLite, "
        "verified and measured.",
        "",
        *_table(figures, TIMES, 1.0, ".3g", _described),
        "",
        "## Peak RAM, MB",
        "",
        "Each figure is taken apart into a fixed part, bytes for each parameter and bytes for each activation of one "
        f"sample (training holds {BATCH} samples). Three figures have no choice but to fit three parts: whether the "
        "bytes make sense is the only test.",
        "",
        *_table(figures, MEMORY, 1.0, ".0f", _taken_apart),
        "",
        "## Files, MB",
        "",
        *_table(figures, SIZES, 1e6, ".3f", _described),
        "",
        *_failures(figures),
    ]


def _models(figures: Figures) -> list[str]:
    lines = ["| U-Net | parameters | multiply-accumulates | activations |", "|---|---:|---:|---:|"]
    first = next(iter(figures.values()))["model"]
    for name, stages in figures.items():
        own = stages["model"]
        cells = [_cell(own[key], None if own is first else first[key], ",") for key in DRIVERS.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", "Multiply-accumulates and activations (outputs of all layers) are those of one sample."]


def _table(figures: Figures, rows: Sequence[Row], unit: float, digits: str, explain: Explain) -> list[str]:
    lines = [f"| | {' | '.join(figures)} | grows with |", f"|---|{'---:|' * len(figures)}---|"]
    reasons = []
    drivers = {name: [float(stages["model"][key]) for stages in figures.values()] for name, key in DRIVERS.items()}
    for row in rows:
        values = [_value(stages, row, unit) for stages in figures.values()]
        known = [value for value in values if value is not None]
        # Two points lie on any line.
        driver, words = explain(known, drivers) if len(known) == len(values) else ("?", "too few figures to say")
        cells = [
            _cell(value, values[0] if index else None, digits) if value is not None else _missing(stages, row)
            for index, (value, stages) in enumerate(zip(values, figures.values(), strict=True))
        ]
        lines.append(f"| {row.title} | {' | '.join(cells)} | {driver} |")
        reasons.append(f"- **{row.title}**: {words}: {row.why}.")
    return [*lines, "", *reasons]


def _value(stages: Mapping[str, Mapping[str, Any]], row: Row, unit: float) -> float | None:
    stage = stages.get(row.stage, {})
    return None if "error" in stage or row.key not in stage else float(stage[row.key]) / row.share / unit


def _missing(stages: Mapping[str, Mapping[str, Any]], row: Row) -> str:
    return "fails" if "error" in stages.get(row.stage, {}) else "?"


def _cell(value: float, first: float | None, digits: str) -> str:
    return f"{value:{digits}}" + (f" (x{value / first:.3g})" if first else "")


def _described(costs: Sequence[float], drivers: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Return the one driver that describes a cost best, and that in words."""
    found = growth.find(costs, drivers)
    if found.driver == growth.NOTHING:
        return found.driver, f"hardly grows (x{found.ratio:.2f})"
    fixed = f", {found.fixed_share:.0%} of the largest is fixed" if found.fixed_share >= 0.01 else ""
    if found.error > _SURE:
        return found.driver, f"none alone describes it, {found.driver} best (to {found.error:.0%}{fixed})"
    return found.driver, f"with {found.driver} (to {found.error:.0%}{fixed})"


def _taken_apart(costs: Sequence[float], drivers: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Return the shares of parameters and activations in the growth of a cost in MB, and what each of them takes."""
    found = growth.take_apart(costs, {name: drivers[name] for name in (PARAMETERS, ACTIVATIONS)})
    named = sorted(found.shares.items(), key=lambda each: -each[1])
    shares = [f"{name} {share:.0%}" for name, share in named if round(share, 2) > 0]
    sizes = [f"{1e6 * found.weights[name]:.1f} bytes for each of the {name}" for name, share in named if share > 0]
    error = f" (to {found.error:.0%})" if found.error >= 0.01 else ""
    return ", ".join(shares), " + ".join([f"{found.fixed:.0f} MB", *sizes]) + error


def _precision(figures: Figures, stage: str) -> str:
    return next((str(stages[stage]["precision"]) for stages in figures.values() if "precision" in stages[stage]), "?")


def _idleness(figures: Figures) -> str:
    """Say how much other work the machine did, which wall time shows and processor time hides."""
    known = [stage for stages in figures.values() for stage in stages.values() if stage.get("seconds")]
    waits = [stage["seconds"] / stage["cpu_seconds"] for stage in known]
    return (
        f"In this run wall time was {statistics.median(waits):.1f} times the processor time in the median; much more "
        "than 1 means that the machine did other work too, which makes processor time a little longer as well."
    )


def _failures(figures: Figures) -> list[str]:
    """Return what did not work, and how far it came."""
    lines = []
    for model, stages in figures.items():
        for name, stage in stages.items():
            if "error" in stage:
                seen = {"own process": "peak_mb", "TensorFlow's process": "converter_mb"}
                peaks = [f"{who} at {stage[key]:.0f} MB" for who, key in seen.items() if stage.get(key)]
                reached = f" ({', '.join(peaks)})" if peaks else ""
                lines.append(f"- {model}, {name}: {stage['error']}{reached}.")
            elif stage.get("passed") is False:
                lines.append(f"- {model}, {name}: the file does not compute what the model does.")
    return ["## What does not work", "", *(lines or ["Everything was made and verified."]), ""]
