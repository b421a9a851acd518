"""What a run made, for Python: its report.json, the folder of its files, and how it shows itself."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any, cast

from torchshrink.report import text
from torchshrink.report.columns import table
from torchshrink.report.schema import Report, Row
from torchshrink.report.tradeoff import reference
from torchshrink.settings import Budget


class Result(dict[str, Any]):
    """The content of report.json, and what can be asked of it.

    Args:
        report: As `torchshrink.report.document.load` returns it.
        folder: Of the run.
        budget: How much worse than the dense PyTorch model a file may be in what decides: ``"2%"`` of its figure, or a
            number in its units; by default the report's.
    """

    def __init__(self, report: Report, folder: Path, budget: str | float | None = None) -> None:
        super().__init__(report)
        stated: Any = report["task"].get("budget") or {"amount": 0.05}
        self.folder, self.budget = folder, Budget(**stated) if budget is None else Budget.parse(budget)

    @property
    def best(self) -> Row | None:
        """The row of the smallest exported file within the budget; None when none is."""
        rows = self._report["rows"]
        limit = self._cost(reference(rows, "torch")) if rows else math.nan
        limit += self.budget.of(limit)
        within = [row for row in rows if row["format"] != "torch" and self._cost(row) <= limit]
        return min(within, key=lambda row: row["bytes"], default=None)

    def path(self, name: str) -> Path:
        """Return the file of a row, such as ``"pruned-qat/tflite-int8"``.

        Raises:
            KeyError: When the run has no such row; names those that it has.
        """
        paths = {row["name"]: self.folder / row["path"] for row in self._report["rows"]}
        if name not in paths:
            raise KeyError(f"no file {name!r} in this run, which has {', '.join(paths)}")
        return paths[name]

    def __repr__(self) -> str:
        headings, lines = table(self._report["rows"])
        cells = [headings, *([cell.text for cell in line] for line in lines)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([*rows, "", *self._sentences()])

    def _repr_html_(self) -> str:
        """Return the table of files and the verdict, for a notebook."""
        headings, lines = table(self._report["rows"])
        head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell.text)}</td>' for cell in line)}</tr>" for line in lines)
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in self._sentences())
        return f"{said}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @property
    def _report(self) -> Report:
        return cast(Report, self)

    def _sentences(self) -> list[str]:
        best = self.best
        named = "no file" if best is None else f"{best['name']} ({self.folder / best['path']})"
        allowed = f"{100 * self.budget.amount:g}%" if self.budget.is_share else f"{self.budget.amount:g}"
        within = f"Within a budget of {allowed}, the smallest file: {named}."
        return [text.verdict(self._report), within, f"report: {self.folder / 'report.html'}"]

    def _cost(self, row: Row) -> float:
        """Return a row's figure in what decides, smaller is better."""
        task: Any = self["task"]
        decides = task.get("decides", "loss")
        if decides == "loss":
            return float(row["loss"])
        value = float(cast(Any, row["metrics"])[decides])
        return -value if task["metrics"][decides]["higher_is_better"] else value
