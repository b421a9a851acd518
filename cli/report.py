"""The command that draws a finished run again, or two beside each other: report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchshrink.cli import console, options
from torchshrink.cli.inputs import check_output
from torchshrink.cli.shown import check_tracker, log, show_cells

if TYPE_CHECKING:
    from torchshrink.report.columns import Cell


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run, which holds report.json.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Another run: shows the two side by side.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Of two runs: a page to write, .html.")] = None,
    track: options.Track = None,
    overwrite: options.Overwrite = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Make report.html, report.md, report.csv and report.png of a run again, from its report.json; or compare two."""
    from torchshrink.report import document, text

    if other is not None:
        _compare(folder, other, out, overwrite, wide, as_json)
        return
    if out is not None:
        raise typer.BadParameter("is for two runs: one run's pages stand in its folder", param_hint="--out")
    check_tracker(track)
    content = document.load(folder)
    paths = document.render(content, folder)
    log(folder, track, is_told=False)
    if as_json:
        console.show_json(content)
        return
    console.show(text.verdict(content))
    for sentence in text.recommendations(content):
        console.show(sentence)
    console.show(f"report: {paths[0]} (also {', '.join(path.name for path in paths[1:])})")


def _compare(folder: Path, other: Path, out: Path | None, overwrite: bool, wide: bool, as_json: bool) -> None:
    from torchshrink.files import atomic
    from torchshrink.report import document, html, versus

    if out is not None:
        check_output(out, overwrite, (".html",))
    runs = document.load(folder), document.load(other)
    names = (folder.name, other.name) if folder.name != other.name else (str(folder), str(other))
    headings, lines = versus.table(*runs, names)
    said = versus.sentences(*runs, names)
    if out is not None:
        with atomic(out) as temporary:
            temporary.write_text(html.side_by_side(runs, names), encoding="utf-8")
    if as_json:
        rows = [dict(zip(headings, map(_plain, line), strict=True)) for line in lines]
        console.show_json({"runs": [str(folder), str(other)], "rows": rows, "notes": said})
        return
    show_cells(headings, lines, few=versus.few(*runs, names), wide=wide)
    for sentence in said:
        console.show(sentence)
    if out is not None:
        console.show(f"page: {out}")


def _plain(cell: Cell) -> str | float | None:
    """Return what a cell holds; None for the figure of a file that the run does not have."""
    if cell.number is None:
        return cell.text
    return cell.number if math.isfinite(cell.number) else None
