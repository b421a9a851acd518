"""Fill the page: what the template is given, and the template."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from torchshrink.files import read
from torchshrink.report import noise, text, versus
from torchshrink.report.answer import answer, look
from torchshrink.report.columns import table
from torchshrink.report.curves import curves
from torchshrink.report.html import models, plots
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
_SCRIPTS = ("plotly.min.js", "figures.js", "sort.js")


def page(report: Report, out: Path) -> str:
    """Return the page of a run as HTML that loads nothing.

    Args:
        report: As `torchshrink.report.document.load` returns it.
        out: The run's folder; its ``samples``, ``models`` and ``recipe.json`` are shown when it has them.
    """
    return _filled("page.html.jinja", _content(report, out))


def side_by_side(runs: tuple[Report, Report], names: Sequence[str]) -> str:
    """Return a page of two runs as HTML that loads nothing.

    Args:
        runs: Two reports.
        names: What they are called.
    """
    headings, lines = versus.table(*runs, names)
    each = zip(names, runs, versus.judges_of(*runs), strict=True)
    shown = {name: (run["rows"], judge) for name, run, judge in each}
    content = {
        "headings": headings,
        "lines": lines,
        "said": versus.sentences(*runs, names),
        "few": versus.few(*runs, names),
        "names": names,
        "figures": plots.of_runs(shown),
    }
    return _filled("versus.html.jinja", content)


def _filled(name: str, content: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,  # names of tasks, variants and classes are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(content | _looks())


def _looks() -> dict[str, Any]:
    """Return the style and the scripts of a page, and the hashes by which the page lets those run and no other."""
    scripts = [(_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return {
        "style": Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        "scripts": [Markup(script) for script in scripts],
        "hashes": [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    }


def _content(report: Report, out: Path) -> dict[str, Any]:
    rows, task, judge = report["rows"], report["task"], text.judge_of(report)
    dense = reference(rows, "torch") if rows else None
    is_ruin = dense is not None and judge.learned_nothing(dense)
    headings, lines = table(rows)
    found = answer(report, judge)
    trained = {row["variant"]: curves(out, row["variant"]) for row in rows}
    return {
        "task": task,
        "environment": report["environment"],
        "rows": rows,
        "failed": report["failed"],
        "verdict": text.verdict(report),
        "answer": found,
        "look": look(found.row, out) if found.row else (),
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
        "pareto": plots.pareto(rows, judge, report["failed"], found.row) if rows else [],
        "times": plots.times(rows),
        "ladder": plots.ladder(rows),
        "training": models.training({name: epochs for name, epochs in trained.items() if epochs}, judge),
        "noise": models.noise(noise.of_rows(rows)),
        "predictions": predictions(rows, out, task),
        "answers": answers(rows, out, task),
        "layers": layer_bars(report.get("layers") or {}),
        "histograms": models.histograms(rows, out),
        "activations": activations(rows, out, judge),
        "search": search_section(report.get("search")),
        "islands": [(row["name"], text.islands(row)) for row in rows if row["islands"]],
        "conditions": text.conditions(report),
        "recipe": _recipe(out),
    }


def _card(item: Recommendation, rows: list[Row], judge: Judge) -> dict[str, Any]:
    row = item.row or item.closest
    change = judge.change_text(row, reference(rows, "torch")) if row else ""
    figure = judge.text(judge.figure(row)) if row else ""
    return {"goal": item.goal, "row": item.row, "closest": item.closest, "change": change, "figure": figure}


def _recipe(out: Path) -> str | None:
    """Return the recipe as the run stored it."""
    try:
        return json.dumps(json.loads(read(out / "recipe.json")), indent=1)
    except (OSError, ValueError, RecursionError):
        return None
