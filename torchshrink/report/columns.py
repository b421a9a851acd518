"""The columns of the table of files, each declared once for everything that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchshrink import harmless
from torchshrink.digits import written
from torchshrink.report.noise import worst_db
from torchshrink.report.schema import Row
from torchshrink.report.tradeoff import reference


@dataclass(frozen=True)
class Cell:
    """What people read, and what it sorts by.

    Attributes:
        text: What it says.
        number: What it sorts by; None for text, NaN for a number that is not known.
    """

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Column:
    """One figure of every row.

    Attributes:
        value: From a row, among all rows.
        key: What the .csv file calls it, with its unit; empty when it is not there.
        heading: What the tables call it that people read; empty when it is not there.
        text: How those write it: a format of the value, or a function of the row.
    """

    value: Callable[[Row, Sequence[Row]], Any]
    key: str = ""
    heading: str = ""
    text: str | Callable[[Row], str] = "{}"

    def cell(self, row: Row, rows: Sequence[Row]) -> Cell:
        """Return the cell of a table that people read."""
        value = self.value(row, rows)
        text = self.text.format(value) if isinstance(self.text, str) else self.text(row)
        return Cell(text, None if isinstance(value, str) else value)


def _plain(key: str, heading: str = "", text: str | Callable[[Row], str] = "{}") -> Column:
    """Return the column of a figure that stands in the row itself."""
    return Column(lambda row, _: row.get(key), key, heading, text)


def _parity(row: Row) -> str:
    parity = row["parity"]
    if parity["reference"] is None:
        return "reference"
    return f"{parity['max_abs']:.1e}" if parity["lsb_match"] is None else f"{parity['lsb_match']:.2%} within 1"


def _smaller(row: Row, rows: Sequence[Row]) -> float:
    """Compare with the first fp32 TFLite file."""
    return reference(rows)["bytes"] / row["bytes"]


def _faster(row: Row, rows: Sequence[Row]) -> float:
    """Compare with the first fp32 file of the same runtime."""
    return reference(rows, row["format"])["latency_ms"]["median"] / row["latency_ms"]["median"]


_BEFORE = (
    _plain("name", "file"),
    _plain("variant"),
    _plain("format"),
    _plain("precision"),
    _plain("path"),
    _plain("bytes", "MB", lambda row: f"{row['bytes'] / 1e6:.3f}"),
    Column(_smaller, heading="smaller", text="{:.2f}x"),
    _plain("gzip_bytes"),
    _plain("entropy_bytes"),
    _plain("params"),
    _plain("nonzero"),
    _plain("sparsity", "sparse", "{:.0%}"),
    _plain("macs"),
    _plain("loss", "loss", lambda row: written(row["loss"])),
)
_AFTER = (
    Column(lambda row, _: row["latency_ms"]["median"], "latency_median_ms", "ms", "{:.2f}"),
    Column(_faster, heading="faster", text="{:.2f}x"),
    Column(lambda row, _: row["latency_ms"]["p90"], "latency_p90_ms"),
    Column(lambda row, _: row["latency_ms"]["threads"], "threads"),
    Column(lambda row, _: row["latency_ms"]["runs"], "runs"),
    _plain("peak_rss_mb", "RAM MB", "{:.0f}"),
    _plain("runtime_rss_mb"),
    _plain("model_rss_mb"),
    _plain("arena_bytes"),
    Column(lambda row, _: row["parity"]["reference"], "parity_reference"),
    Column(lambda row, _: row["parity"]["max_abs"], "parity_max_abs", "parity", _parity),
    Column(lambda row, _: row["parity"]["mean_abs"], "parity_mean_abs"),
    Column(lambda row, _: row["parity"]["lsb_match"], "parity_lsb_match"),
    Column(lambda row, _: "; ".join(row["islands"]), "islands"),
    _plain("matched_ranges"),
    Column(lambda row, _: worst_db(row), "graph_noise_db"),
)


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return all columns: the metrics are those of the task; without a row, those of a segmentation.

    What shape a model has is a column where there is a student.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"])) if rows else ["dice", "iou"]
    taught = [_plain("architecture")] if any("student" in row.get("architecture", "") for row in rows) else []
    return [*_BEFORE, *(_metric(name, names) for name in names), *_AFTER, *taught]


def _metric(name: str, names: Sequence[str]) -> Column:
    """Return the column of a metric; beside dice alone, IoU tells people nothing new."""
    heading = "" if name == "iou" and set(names) == {"dice", "iou"} else name

    def value(row: Row) -> float:
        return float(row["metrics"].get(name, math.nan))

    return Column(lambda row, _: value(row), name, heading, lambda row: written(value(row)))


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Return headings and cells of the table that people read, one line per row."""
    shown = [column for column in columns(rows) if column.heading]
    return [column.heading for column in shown], [[column.cell(row, rows) for column in shown] for row in rows]


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each row its figures as plain values under their keys, which say the unit."""
    return [{column.key: column.value(row, rows) for column in columns(rows) if column.key} for row in rows]


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown, and an empty one."""
    rows = [headings, ["---"] * len(headings), *lines]
    return [f"| {' | '.join(map(harmless.markdown, row))} |" for row in rows] + [""]
