"""The command that draws a finished run again: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torchshrink.cli import console, options
from torchshrink.cli.shown import check_tracker, log


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run, which holds report.json.")],
    track: options.Track = None,
    as_json: options.Json = False,
) -> None:
    """Make report.html, report.md, report.csv and report.png of a run again, from its report.json."""
    from torchshrink.report import document, text

    check_tracker(track)
    content = document.load(folder)
    paths = document.render(content, folder)
    log(folder, track)
    if as_json:
        console.show_json(content)
        return
    console.show(text.verdict(content))
    for sentence in text.recommendations(content):
        console.show(sentence)
    console.show(f"report: {paths[0]} (also {', '.join(path.name for path in paths[1:])})")
