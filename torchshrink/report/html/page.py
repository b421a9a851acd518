"""Fill the page: what the template is given, and the template."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from torchshrink.report import noise, text
from torchshrink.report.answer import answer
from torchshrink.report.columns import Cell, table
from torchshrink.report.html import plots
from torchshrink.report.html.activations import activations
from torchshrink.report.html.answers import answers
from torchshrink.report.html.layer_bars import layer_bars
from torchshrink.report.html.predictions import predictions
from torchshrink.report.html.search import search_section
from torchshrink.report.judge import Judge
from torchshrink.report.processors import said_of_speed
from torchshrink.report.schema import Report, Row
from torchshrink.report.tradeoff import Recommendation, recommend, reference

_HERE = Path(__file__).parent
_FORMATS = {"torch": "PyTorch", "onnx": "ONNX", "tflite": "TFLite", "h5": "Keras"}
_SHAPES = {"fp32": "\u25cf", "fp16": "\u25a0", "int8": "\u25c6"}


def page(report: Report, out: Path) -> str:
    """Return the page of a run as HTML that loads nothing.

    Args:
        report: As `torchshrink.report.document.load` returns it.
        out: The run's folder; its ``samples`` and ``recipe.json`` are shown when it has them.
    """
    return _filled("page.html.jinja", _content(report, out))


def side_by_side(
    headings: Sequence[str], lines: Sequence[Sequence[Cell]], said: Sequence[str], names: Sequence[str]
) -> str:
    """Return a page of two runs as HTML that loads nothing; the arguments are those of `torchshrink.report.versus`."""
    content = {"headings": headings, "lines": lines, "said": said, "names": names}
    return _filled("versus.html.jinja", content | _looks())


def _filled(name: str, content: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,  # names of tasks, variants and classes are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(content)


def _looks() -> dict[str, Any]:
    """Return the style and the script of a page, and the hash by which the page lets that run."""
    script = (_HERE / "sort.js").read_text(encoding="utf-8")
    return {
        "style": Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _content(report: Report, out: Path) -> dict[str, Any]:
    rows, task, judge = report["rows"], report["task"], text.judge_of(report)
    dense = reference(rows, "torch") if rows else None
    is_ruin = dense is not None and judge.learned_nothing(dense)
    headings, lines = table(rows)
    return {
        "task": task,
        "environment": report["environment"],
        "rows": rows,
        "failed": report["failed"],
        "verdict": text.verdict(report),
        "answer": answer(report, judge),
        "few": ("file", "MB", judge.decides, "ms"),
        "judge": judge,
        "limit": judge.text(abs(judge.limit(dense))) if dense else "",
        "dense": dense,
        "smaller_than": reference(rows)["name"] if rows else None,
        "cards": [] if is_ruin else [_card(item, rows, judge) for item in recommend(rows, judge=judge)],
        "slow_int8": [] if is_ruin else [*said_of_speed(rows, report["environment"]), *noise.warnings(rows)],
        "graph_noise": {variant: noise.cells(found) for variant, found in noise.of_rows(rows).items()},
        "headings": headings,
        "lines": lines,
        "pareto": plots.pareto(rows, judge) if rows else [],
        "ladder": plots.ladder(rows),
        "predictions": predictions(rows, out, task),
        "answers": answers(rows, out, task),
        "layers": layer_bars(report.get("layers") or {}),
        "histograms": plots.histograms(rows, out),
        "activations": activations(rows, out, judge),
        "search": search_section(report.get("search")),
        "islands": [(row["name"], text.islands(row)) for row in rows if row["islands"]],
        "conditions": text.conditions(report),
        "recipe": _recipe(out),
        "formats": [
            (plots.COLORS[name], title)
            for name, title in _FORMATS.items()
            if any(row["format"] == name for row in rows)
        ],
        "shapes": [(shape, name) for name, shape in _SHAPES.items() if any(row["precision"] == name for row in rows)],
        **_looks(),
    }


def _card(item: Recommendation, rows: list[Row], judge: Judge) -> dict[str, Any]:
    row = item.row or item.closest
    change = judge.change(row, reference(rows, "torch")) if row else None
    figure = judge.text(judge.figure(row)) if row else ""
    return {"goal": item.goal, "row": item.row, "closest": item.closest, "change": change, "figure": figure}


def _recipe(out: Path) -> str | None:
    """Return the recipe as the run stored it."""
    try:
        return json.dumps(json.loads((out / "recipe.json").read_text()), indent=1)
    except (OSError, ValueError):
        return None
