"""What several commands show: reports, files, and where a finished run was logged."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchshrink.cli import console

if TYPE_CHECKING:
    from torchshrink.report.columns import Cell
    from torchshrink.report.schema import Report
    from torchshrink.report.tracking import Tracker


def show_report(content: Report, folder: Path, as_json: bool = False) -> None:
    """Show what a run made, and where its report is."""
    from torchshrink.report import columns, text

    if as_json:
        console.show_json(content)
        return
    show_cells(*columns.table(content["rows"]))
    console.show(text.verdict(content))
    console.show(f"report: {folder / 'report.html'}")


def show_cells(headings: Sequence[str], lines: Sequence[Sequence[Cell]], title: str | None = None) -> None:
    """Show a table of a report."""
    console.show_table(headings, [[cell.text for cell in line] for line in lines], title)


def show_file(path: Path, as_json: bool) -> None:
    """Show what was written."""
    if as_json:
        console.show_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        console.show(f"{path}: {path.stat().st_size / 1e6:.3f} MB")


def write_json(content: Any, out: Path | None) -> None:
    """Write ``content`` to a file, if one is wanted."""
    from torchshrink.files import atomic

    if out is not None:
        with atomic(out) as temporary:
            temporary.write_text(json.dumps(content, indent=1))


def folder_name(recipe: Path | None, data: str) -> str:
    """Return what the folder of a run is called."""
    if recipe is not None:
        return recipe.stem
    place = re.sub("^(folder|npz|csv):", "", data).partition("?")[0]
    name = place.replace(":", "-") if ":" in place else Path(place).stem
    return name or "run"


def check_tracker(track: Tracker | None) -> None:
    """Refuse a tracker that is not installed, before the work begins."""
    if track is not None:
        from torchshrink.report import tracking

        tracking.check(track)


def log(folder: Path, track: Tracker | None) -> None:
    """Log a finished run where the user asked for."""
    if track is not None:
        from torchshrink.report import tracking

        console.errors.print(f"look at it with: {tracking.log(folder, track)}")
