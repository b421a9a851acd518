"""What the terminal shows: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from torchshrink.harmless import terminal, without_passwords

_SECONDS_BETWEEN_LINES = 10.0


class Plain(Console):
    """Shows text as it is: names of files and what files say of themselves give no orders to a terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; text is neither markup nor escape codes, and shows no passwords."""
        super().print(*(plain(each) if isinstance(each, str) else each for each in objects), **options, markup=False)


def plain(text: str) -> str:
    """Return text that does nothing but be read."""
    return terminal(without_passwords(text))


errors = Plain(stderr=True, soft_wrap=True, highlight=False)

_is_interrupted = threading.Event()


def interruptible() -> None:
    """Let no Ctrl-C get lost: some libraries catch every exception, this one too.

    Where the shell said that interruptions are to be ignored, they are.
    """

    def interrupt(_signal: int, _frame: object) -> None:
        _is_interrupted.set()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def _check() -> None:
    """Raise the interruption again that somebody swallowed."""
    if _is_interrupted.is_set():
        raise KeyboardInterrupt


class Progress:
    """Draws bars on a terminal and writes plain lines elsewhere; a context manager."""

    def __init__(self) -> None:
        self._is_terminal = errors.is_terminal
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bars = Bars(*columns, console=errors)
        self._task: TaskID | None = None
        self._title = ""
        self._last_line = 0.0
        self._note = ""

    def __enter__(self) -> Progress:
        if self._is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._finish()
            self._bars.stop()

    def start(self, title: str) -> None:
        """Begin a step."""
        _check()
        self._title, self._note = plain(title), ""
        if self._is_terminal:
            self._finish()
            self._task = self._bars.add_task(self._title, total=None, note="")
        else:
            errors.print(f"{title} ...")
            self._last_line = time.monotonic()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show how much of the step is done."""
        _check()
        self._note = plain(note) or self._note
        if self._is_terminal and self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=self._note)
        elif note and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            errors.print(f"  {done}/{total} {note}")
            self._last_line = time.monotonic()

    def note(self, text: str) -> None:
        """Show a line that stays."""
        _check()
        errors.print(text)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=1, total=1)
            self._bars.stop_task(self._task)
            self._task = None


def show_json(content: Any) -> None:
    """Write JSON to stdout, and nothing else ever."""
    print(json.dumps(content, indent=1))


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Write a table to stdout: the first column to the left, figures to the right, never cut off."""
    table = Table(title=None if title is None else Text(plain(title), "table.title"), title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(Text(plain(heading)), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = Plain()
    if not console.is_terminal or console.width < console.measure(table).maximum:
        console = Plain(width=max(console.width, console.measure(table).maximum + 2, 200))
    console.print(table)


def show(text: str) -> None:
    """Write a line to stdout."""
    Plain(soft_wrap=True, highlight=False).print(text)


def flush() -> None:
    """Push out what is buffered."""
    sys.stdout.flush()
