"""Fill the page: what the template is given, and the template."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from torchshrink.report import text
from torchshrink.report.html import plots
from torchshrink.report.html.activations import activations
from torchshrink.report.html.layer_bars import layer_bars
from torchshrink.report.html.predictions import predictions
from torchshrink.report.html.search import search_section
from torchshrink.report.tradeoff import BUDGET, Recommendation, Row, recommend, reference

_HERE = Path(__file__).parent
_NUMBERS: dict[str, Callable[[Row], Any]] = {  # headings of the table, and the figure that each sorts by
    "MB": lambda row: row["bytes"],
    "sparse": lambda row: row["sparsity"],
    "loss": lambda row: row["loss"],
    "dice": lambda row: row["metrics"]["dice"],
    "ms": lambda row: row["latency_ms"]["median"],
    "RAM MB": lambda row: row["peak_rss_mb"],
    "parity": lambda row: row["parity"]["max_abs"],
}
_FORMATS = {"torch": "PyTorch", "onnx": "ONNX", "tflite": "TFLite", "h5": "Keras"}
_SHAPES = {"fp32": "\u25cf", "fp16": "\u25a0", "int8": "\u25c6"}


def page(report: dict[str, Any], out: Path) -> str:
    """Return the page of a run as HTML that loads nothing.

    Args:
        report: As `torchshrink.report.document.load` returns it.
        out: The run's folder; its ``samples`` and ``recipe.json`` are shown when it has them.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,  # names of tasks, variants and classes are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(_content(report, out))


def _content(report: dict[str, Any], out: Path) -> dict[str, Any]:
    rows, task = report["rows"], report["task"]
    script = (_HERE / "sort.js").read_text(encoding="utf-8")
    return {
        "task": task,
        "environment": report["environment"],
        "rows": rows,
        "failed": report.get("failed", []),
        "verdict": text.verdict(rows),
        "budget": BUDGET,
        "dense": reference(rows, "torch") if rows else None,
        "smaller_than": reference(rows)["name"] if rows else None,
        "cards": [_card(item, rows) for item in recommend(rows)],
        "headings": text.table(rows)[0],
        "lines": _lines(rows),
        "pareto": plots.pareto(rows) if rows else [],
        "ladder": plots.ladder(rows),
        "predictions": predictions(rows, out, task),
        "layers": layer_bars(report.get("layers") or {}),
        "histograms": plots.histograms(rows, out),
        "activations": activations(rows, out),
        "search": search_section(report.get("search")),
        "islands": [(row["name"], text.islands(row)) for row in rows if row["islands"]],
        "conditions": text.conditions(report),
        "recipe": _recipe(out),
        "formats": [(plots.COLORS[name], title) for name, title in _FORMATS.items() if _has(rows, "format", name)],
        "shapes": [(shape, name) for name, shape in _SHAPES.items() if _has(rows, "precision", name)],
        "style": Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _has(rows: list[Row], key: str, wanted: str) -> bool:
    return any(row[key] == wanted for row in rows)


def _lines(rows: list[Row]) -> list[list[tuple[str, Any]]]:
    """Return the cells of the table, each with the number that it sorts by."""
    headings, cells = text.table(rows)
    lines = []
    for row, line in zip(rows, cells, strict=True):
        numbers = {heading: number(row) for heading, number in _NUMBERS.items()}
        numbers |= {heading: float(line[headings.index(heading)].rstrip("x")) for heading in ("smaller", "faster")}
        lines.append([(cell, numbers.get(heading)) for heading, cell in zip(headings, line, strict=True)])
    return lines


def _card(item: Recommendation, rows: list[Row]) -> dict[str, Any]:
    row = item.row or item.closest
    change = row["loss"] - reference(rows, "torch")["loss"] if row else None
    return {"goal": item.goal, "row": item.row, "closest": item.closest, "change": change}


def _recipe(out: Path) -> str | None:
    """Return the recipe as the run stored it."""
    try:
        return json.dumps(json.loads((out / "recipe.json").read_text()), indent=1)
    except (OSError, ValueError):
        return None
