"""report.json, read and written, and everything that is made of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torchshrink.errors import DataError, missing_extra
from torchshrink.files import atomic, is_inside, link_out, read
from torchshrink.report import schema
from torchshrink.report.plot import plot
from torchshrink.report.schema import SCHEMA, Report
from torchshrink.report.text import judge_of, markdown, table_csv

_logger = logging.getLogger(__name__)


def save(report: dict[str, Any], out: Path) -> None:
    """Write report.json into a folder, and everything that is made of it, where the extra ``report`` is installed."""
    with atomic(out / "report.json") as temporary:
        temporary.write_text(json.dumps({"schema": SCHEMA, **report}, indent=1))
    try:
        render(load(out), out)
    except ModuleNotFoundError as error:  # no reason to lose what took hours
        if (missing := missing_extra(error)) is None:
            raise
        _logger.warning("%s; then torchshrink report %s makes the page", missing, out)


def render(report: Report, out: Path) -> list[Path]:
    """Write report.html, report.md, report.csv and report.png into the folder of a run, and return their paths."""
    from torchshrink.report import html

    texts = {"html": html.page(report, out), "md": markdown(report), "csv": table_csv(report["rows"])}
    for ending, text in texts.items():
        with atomic(out / f"report.{ending}") as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    plot(report["rows"], out / "report.png", judge_of(report))
    return [out / f"report.{ending}" for ending in (*texts, "png")]


def load(out: Path) -> Report:
    """Read a run's report.json.

    Raises:
        DataError: When there is none, of another schema, or with something else than a report has; names the key.
    """
    path = out / "report.json"
    try:
        content = json.loads(read(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is missing or damaged: `torchshrink run --out {out}` makes it") from error
    if isinstance(content, dict) and content.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {content.get('schema')}, this version reads {SCHEMA}")
    report = schema.parse(content, path)
    if link := link_out(out):
        raise DataError(f"{link} leads out of the run's folder, whose files are shown: remove the link")
    for row in report["rows"]:
        for name in (row["path"], row["name"], row["variant"]):  # what files and folders are called by
            if not is_inside(out, name):
                raise DataError(f"{path} names {name!r}, which is not in its folder: somebody changed it")
    return report
