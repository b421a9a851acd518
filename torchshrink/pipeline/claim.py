"""A run's folder: this run's own, nobody else's, and one process's at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchshrink.errors import DataError, RecipeError
from torchshrink.files import atomic, is_temporary, link_out, locked, read
from torchshrink.pipeline.recipe import Recipe, dump, parse
from torchshrink.pipeline.steps import FOLDER

MARKER = "recipe.json"
_LOCK = "lock"


@contextmanager
def claimed(out: Path, recipe: Recipe, is_fresh: bool) -> Iterator[None]:
    """Hold a folder for a run, as `claim` makes it one; what a process that was killed left half written goes.

    Raises:
        OutputError: When another process uses it, or it cannot be written.
        DataError: As `claim`.
    """
    _check(out, dump(recipe), is_fresh)  # nothing is written into a folder that is not a run's
    with locked(out / FOLDER / _LOCK, out):
        for path in [path for path in out.rglob(".*") if is_temporary(path) and path.is_file()]:
            path.unlink(missing_ok=True)
        claim(out, recipe, is_fresh)
        yield


def claim(out: Path, recipe: Recipe, is_fresh: bool) -> None:
    """Make ``out`` the folder of this run.

    What run it is stands there twice: finished steps are worth hours, and one of two files may get lost.

    Raises:
        DataError: When it holds another run, files that are not a run's, or a link to what lies outside of it.
    """
    content = dump(recipe)
    _check(out, content, is_fresh)
    for marker in (out / MARKER, out / FOLDER / MARKER):
        with atomic(marker) as temporary:
            temporary.write_text(json.dumps(content, indent=1))


def _check(out: Path, content: dict[str, Any], is_fresh: bool) -> None:
    if link := link_out(out):
        raise DataError(f"{link} leads out of the run's folder, where files are replaced: remove the link")
    markers = [path for path in (out / MARKER, out / FOLDER / MARKER) if path.is_file()]
    own = {MARKER, FOLDER}
    others = [path for path in out.iterdir() if path.name not in own and not is_temporary(path)] if out.is_dir() else []
    if not markers:
        if others:
            raise DataError(f"{out} holds files that are not of a torchshrink run: choose another --out")
        return
    # A wrong path to the data leaves nothing but markers.
    has_begun = bool(others) or any(path.name != MARKER for path in (out / FOLDER).glob("[!.]*.json"))
    known = [found for found in map(stored, markers) if found is not None]
    if has_begun and not is_fresh and content not in known[:1]:
        raise DataError(f"{out} holds another run: choose another --out, or pass --fresh to replace it")


def stored(marker: Path) -> dict[str, Any] | None:
    """Return the recipe of a marker; nothing when it is damaged: nobody knows then which run it was."""
    try:
        # Read as a recipe: an earlier version may have written settings that are no longer stored.
        return dump(parse(json.loads(read(marker))))
    except (OSError, ValueError, RecursionError, RecipeError):
        return None
