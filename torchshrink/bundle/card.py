"""The model card: what is known of a file, from itself, the report of its run and its self-test; nothing is guessed."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torchshrink.bundle import micro
from torchshrink.digits import written
from torchshrink.errors import DataError
from torchshrink.files import sha256
from torchshrink.harmless import markdown

UNKNOWN = "not measured"


def row_of(file: Path, digest: str) -> tuple[dict[str, Any], dict[str, Any], Path | None]:
    """Return the task and the row of the report beside a file, or above it, that is about this very file.

    Args:
        file: The ``.onnx`` or ``.tflite`` file.
        digest: Its SHA-256: a row about a file that changed since does not count.
    """
    from torchshrink.report import document

    for folder in (file.parent, file.parent.parent):
        try:
            report = document.load(folder)
        except DataError:
            continue
        for row in report["rows"]:
            path = folder / row["path"]
            if path.name == file.name and path.is_file() and sha256(path) == digest:
                return dict(report["task"]), dict(row), folder / "report.json"
    return {}, {}, None


def card(spec: dict[str, Any], runtime: str, file: Path, proof: dict[str, Any], image: str) -> str:
    """Return the text of MODEL_CARD.md.

    Args:
        spec: As `describe.describe` returns it.
        runtime: ``tflite-c``, ``litert`` or ``onnxruntime``.
        file: Where the file came from, beside which its report is looked for.
        proof: What the self-test printed.
        image: What is known of the image's size.
    """
    task, row, source = row_of(file, spec["sha256"])
    entry, output = spec["input"], spec["output"]
    latency = row.get("latency_ms") or {}
    lines = [
        ("What", markdown(f"{spec['kind']}: {', '.join(spec['classes'])}")),
        ("File", f"{_code(spec['file'])}, {file.stat().st_size} bytes, SHA-256 `{spec['sha256']}`"),
        ("Takes", f"{_code(entry['name'])} {entry['type']} {entry['shape']}; raw {markdown(spec['raw'])}, mean "
                  f"{spec['mean']}, std {spec['std']}{_prepared(spec)}"),
        ("Gives", f"{_code(output['name'])} {output['type']} {output['shape']}{_grid(output)}"),
        ("Data", _data(task)),
        ("Quality of the file", _quality(row)),
        ("Proven on", _processors(row)),
        ("Self-test", f"{proof['equal']:.2%} of the values equal to what {_reference(spec)} gave, largest difference "
                      f"{proof['max_difference']:g} (allowed: {proof['allowed']:g})"),
        ("RAM", f"{_mb(proof.get('peak_rss_mb'))} at most for the whole process of this runner ({runtime}), one input; "
                f"in the report: {_mb(row.get('peak_rss_mb'))}"),
        ("Latency", f"{latency['median']:.2f} ms median, {latency['p90']:.2f} ms p90, {latency['threads']} thread(s)"
                    if latency else UNKNOWN),
        ("Start to first result", f"{proof['first_result_s']:.2f} s on the machine that made this folder"),
        *_microcontroller(file),
        ("Image", image),
        ("Made by", f"torchshrink {version('torchshrink')}" + (f", `{source.name}` of its run" if source else "")),
    ]  # fmt: skip
    return "\n".join(["# Model card", "", "| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in lines), ""])


def _code(text: str) -> str:
    """Return text of a file as code in a cell."""
    shown = re.sub(r"[`|<\s]+", " ", text)
    return f"`{shown}`"


def _microcontroller(file: Path) -> list[tuple[str, str]]:
    found = micro.needs(file)
    if found is None:
        return []
    operators = ", ".join(found["operators"])
    return [("Microcontroller", f"arena {found['arena_bytes']} bytes in TensorFlow Lite Micro, operators {operators}")]


def _prepared(spec: dict[str, Any]) -> str:
    options = spec["prepared"]
    return f"; before: {', '.join(f'{key} {value}' for key, value in options.items())}" if options else ""


def _grid(end: dict[str, Any]) -> str:
    return f", value = (code - {end['zero_point']}) x {end['scale']!r}" if end["scale"] else ""


def _data(task: dict[str, Any]) -> str:
    if not task:
        return UNKNOWN
    return (
        f"{markdown(task['name'])}: {task['train']} for training, {task['validation']} validation, {task['test']} test"
    )


def _quality(row: dict[str, Any]) -> str:
    if not row:
        return UNKNOWN
    figures = [f"{markdown(name)} {written(value)}" for name, value in row["metrics"].items()]
    return ", ".join([*figures, f"loss {written(row['loss'])}"]) + " on the test set, computed with this file"


def _processors(row: dict[str, Any]) -> str:
    shown = [kind for kind, found in (row.get("processors") or {}).items() if found.get("passed")]
    return ", ".join(shown) or ("here" if row.get("parity", {}).get("passed") else UNKNOWN)


def _reference(spec: dict[str, Any]) -> str:
    return "ONNX Runtime" if spec["channels_first"] else "LiteRT"


def _mb(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f} MB"
