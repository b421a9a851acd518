"""Code of the user's, run: what it raises is told as theirs, with the file and the line."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchshrink.errors import RecipeError, ShrinkError

_OWN = __name__.partition(".")[0]
_PYTHON = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def place(error: BaseException) -> str | None:
    """Return the last line of the user's own files that an exception went through, ``models.py:12``; None for none."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        name, path = str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename
        is_installed = path.startswith(_PYTHON) or "site-packages" in path or "dist-packages" in path
        if name.partition(".")[0] != _OWN and not is_installed and Path(path).is_file():
            found = f"{_short(path)}:{line}"
    if found is None and isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    return found


def told(error: BaseException) -> str:
    """Return an exception in one line: ``ValueError: no such size (models.py:12)``."""
    where = place(error)
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}" + (f" ({where})" if where else "")


@contextmanager
def calling(what: str, kind: type[ShrinkError] = RecipeError) -> Iterator[None]:
    """Run code of the user's, which ``what`` names; the current folder is what it was before.

    Raises:
        ShrinkError: Of this kind, whatever the code raises, an exit included; our own errors pass.
    """
    here = Path.cwd()
    try:
        yield
    except (ShrinkError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise kind(f"{what} stopped with {ended(error)}") from error
    except BaseException as error:
        raise kind(f"{what} stopped with {told(error)}") from error
    finally:
        os.chdir(here)  # else what is written next would land elsewhere


def ended(error: SystemExit) -> str:
    """Return who ended the program: ``sys.exit(0) (models.py:12)``."""
    where = place(error)
    return f"sys.exit({error.code!r})" + (f" ({where})" if where else "")


def _short(path: str) -> str:
    """Return a path as seen from the current folder when it is below that."""
    absolute, here = Path(path).absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
