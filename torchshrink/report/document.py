"""report.json, read and written, and everything that is made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchshrink.errors import DataError
from torchshrink.files import atomic, is_inside
from torchshrink.report import trials
from torchshrink.report.plot import plot
from torchshrink.report.text import _PLACES, markdown, table_csv

SCHEMA = 1
_LAYER = {"name", "params", "nonzero", "macs"}
_NEEDED = {
    "name", "variant", "format", "precision", "bytes", "sparsity", "loss", "metrics", "latency_ms", "peak_rss_mb",
    "parity", "islands",
}  # fmt: skip


def save(report: dict[str, Any], out: Path) -> None:
    """Write report.json into a folder, and everything that is made of it."""
    with atomic(out / "report.json") as temporary:
        temporary.write_text(json.dumps({"schema": SCHEMA, **report}, indent=1))
    render(report, out)


def render(report: dict[str, Any], out: Path) -> list[Path]:
    """Write report.html, report.md, report.csv and report.png into the folder of a run, and return their paths."""
    from torchshrink.report import html

    paths = [out / f"report.{ending}" for ending in ("html", "md", "csv", "png")]
    texts = (html.page(report, out), markdown(report), table_csv(report["rows"]))
    for path, text in zip(paths, texts, strict=False):
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    plot(report["rows"], paths[-1])
    return paths


def load(out: Path) -> dict[str, Any]:
    """Read a run's report.json.

    Raises:
        DataError: When there is none, or of another schema.
    """
    path = out / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(report, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged: `torchshrink run --out {out}` makes it") from error
    if report.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {report.get('schema')}, this version reads {SCHEMA}")
    stray = [row[key] for row in report.get("rows") or [] if isinstance(row, dict) for key in _PLACES if key in row]
    if outside := [name for name in stray if not is_inside(out, name)]:
        raise DataError(f"{path} names {outside[0]!r}, which is not in its folder: somebody changed it")
    if not _is_whole(report):
        raise DataError(f"{path} lacks figures that a report needs: `torchshrink run --out {out}` makes it again")
    return report


def _is_whole(report: dict[str, Any]) -> bool:
    rows = report.get("rows")
    has_parts = isinstance(report.get("task"), dict) and isinstance(report.get("environment"), dict)
    if not has_parts or not isinstance(rows, list) or not _have(rows, _NEEDED):
        return False
    if report.get("search") is not None and not trials.is_whole(report["search"]):
        return False
    layers = report.get("layers", {})  # unknown to a report of an older version
    return isinstance(layers, dict) and all(isinstance(each, list) and _have(each, _LAYER) for each in layers.values())


def _have(items: Sequence[Any], keys: set[str]) -> bool:
    return all(isinstance(item, dict) and set(item) >= keys for item in items)
