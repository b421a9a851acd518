"""What the terminal shows: progress on stderr, results on stdout."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from torchshrink.cli import fit
from torchshrink.harmless import terminal, without_passwords
from torchshrink.progress import duration

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BEFORE_A_GUESS = 2.0
_SHARE_BEFORE_A_GUESS = 0.05  # done: the first of many pieces says little of the others
_SECONDS_WORTH_A_LINE = 1.0
_BAR = 12  # characters
_TITLE = 34  # characters of a step's title; a third of a wider terminal
_REST = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # of a line
_NO_LIMIT = 1_000_000


class NoReaderError(BrokenPipeError):
    """Nobody reads any more what is shown: ``| head -1`` has enough."""


class Plain(Console):
    """Shows text as it is: names of files and what files say of themselves give no orders to a terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; text is neither markup nor emoji (``:a:``) nor escape codes, and shows no passwords."""
        options.setdefault("highlight", False)
        options.setdefault("soft_wrap", not self.is_terminal)  # else words wrap at words, and pipes get whole lines
        super().print(
            *(plain(each) if isinstance(each, str) else each for each in objects), **options, markup=False, emoji=False
        )

    def on_broken_pipe(self) -> None:
        """Say so; rich itself would silence what ``sys.stdout`` is and end the program."""
        raise NoReaderError(errno.EPIPE, os.strerror(errno.EPIPE))


def plain(text: str) -> str:
    """Return text that does nothing but be read."""
    return terminal(without_passwords(text))


errors = Plain(stderr=True, highlight=False)

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
        title = Column(no_wrap=True, overflow="ellipsis", max_width=max(_TITLE, errors.width // 3))
        columns = (
            TextColumn("{task.description}", markup=False, table_column=title),
            BarColumn(bar_width=_BAR),
            TextColumn("{task.fields[share]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=_REST),
        )
        self._bars = Bars(*columns, console=errors, expand=True, transient=True)
        self._task: TaskID | None = None
        self._title = self._note = ""
        self._began = self._last_line = 0.0
        self._is_complete = False

    def __enter__(self) -> Progress:
        global _current
        _current = self
        if self._is_drawn:
            self._bars.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        global _current
        _current = None
        if self._is_drawn:
            self._finish(is_done=kind is None)
            self._bars.stop()

    @property
    def _is_drawn(self) -> bool:
        return self._is_terminal and not _is_quiet()

    def start(self, title: str) -> None:
        """Begin a step; one that is going on already is not said again."""
        _check()
        if plain(title) == self._title:
            return
        if self._is_drawn:
            self._finish()
        self._title, self._note, self._began = plain(title), "", time.monotonic()
        self._is_complete = False
        if self._is_drawn:
            self._task = self._bars.add_task(self._title, total=None, note="", share="")
        elif not _is_quiet():
            errors.print(f"{title} ...")
            self._last_line = time.monotonic()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show how much of the step is done, how long the rest takes, and what is going on."""
        _check()
        self._note = plain(note) or self._note
        self._is_complete = done >= total
        left = _left(time.monotonic() - self._began, done, total)
        if self._is_drawn and self._task is not None:
            note = f"{self._note}{', ' if self._note and left else ''}{left}"
            share = f"{100 * done // max(total, 1):3d}%"
            self._bars.update(self._task, completed=done, total=total, note=note, share=share)
        elif note and self._is_due():
            errors.print(f"  {100 * done // max(total, 1)}% ({done}/{total}) {note}{', ' if left else ''}{left}")

    def detail(self, text: str) -> None:
        """Show what a step is doing, where nobody knows how much of it there is."""
        if self._is_drawn and self._task is not None:
            self._note = plain(text)
            self._bars.update(self._task, note=self._note)
        elif self._is_due():
            errors.print(f"  {text}")

    def note(self, text: str) -> None:
        """Show a line that stays, after that of a step of which all is done."""
        _check()
        if self._is_drawn and self._is_complete:
            self._finish()
        if not _is_quiet():
            errors.print(text)

    def _is_due(self) -> bool:
        """Return whether it is time for another line."""
        if _is_quiet() or time.monotonic() - self._last_line < _SECONDS_BETWEEN_LINES:
            return False
        self._last_line = time.monotonic()
        return True

    def _finish(self, is_done: bool = True) -> None:
        """Put a line in the place of the bar: there is one bar at a time. What took no time is not worth a line."""
        if self._task is None:
            return
        self._bars.remove_task(self._task)
        self._task = None
        seconds = time.monotonic() - self._began
        if is_done and seconds >= _SECONDS_WORTH_A_LINE:
            errors.print(f"{self._title}: {duration(seconds)}")


def _left(seconds: float, done: int, total: int) -> str:
    """Say how long the rest takes, once there is something to tell it from."""
    if not 0 < done < total or done < total * _SHARE_BEFORE_A_GUESS or seconds < _SECONDS_BEFORE_A_GUESS:
        return ""
    return f"{duration(seconds / done * (total - done))} left"


class _Lines(logging.Handler):
    """Shows what the library logs: warnings always, what a step is doing beside its bar, all of it with -v."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            errors.print(f"warning: {' '.join(text.split())}", style="yellow")
        elif self.level <= logging.DEBUG:
            errors.print(f"  {record.name}: {text}")
        elif _current is not None and (total := getattr(record, "total", None)):
            _current.update(getattr(record, "done", 0), total, text)
        elif _current is not None:
            _current.detail(text)


_current: Progress | None = None
_lines = _Lines()


def listen(level: int) -> None:
    """Show what the library logs from a level on: DEBUG says all of it, WARNING leaves out the progress too."""
    logger = logging.getLogger("torchshrink")
    _lines.setLevel(level)
    logger.setLevel(level)
    if _lines not in logger.handlers:
        logger.addHandler(_lines)


def _is_quiet() -> bool:
    return _lines.level >= logging.WARNING


_results: TextIO | None = None  # where results go; None for stdout


@contextmanager
def results_alone() -> Iterator[None]:
    """Keep stdout for results: what the user's code prints goes to stderr."""
    global _results
    before, _results = _results, sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results = before


def show_json(content: Any) -> None:
    """Write JSON to stdout, and nothing else ever."""
    try:
        print(json.dumps(content, indent=1), file=_results, flush=True)
    except BrokenPipeError as error:
        raise NoReaderError(*error.args) from error


def show_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    few: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Write a table to stdout: the first column to the left, figures to the right, no wider than the terminal.

    Args:
        headings: Of the columns.
        rows: Their cells.
        title: What stands above.
        few: The headings that are enough; the other columns are shown when it is ``wide``.
        wide: Show all columns: below each other, where they have no room side by side.
    """
    headings, rows = [plain(each) for each in headings], [[plain(cell) for cell in row] for row in rows]
    hidden = [] if wide or not few else [each for each in headings if each not in few]
    if hidden:
        headings, rows = fit.few(headings, rows, few)
    console = Plain(file=_results, highlight=False)
    width = console.width if console.is_terminal else None  # what reads a pipe wants whole lines
    if title is not None:
        console.print(Text(plain(title), "italic"))
    for names, lines in fit.blocks(headings, rows, width):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
        for index, name in enumerate(names):
            table.add_column(Text(name), justify="left" if index == 0 else "right", overflow="fold", no_wrap=True)
        for line in lines:
            table.add_row(*map(Text, line))
        needed = console.measure(table, options=console.options.update(max_width=_NO_LIMIT)).maximum
        (console if console.width >= needed else Plain(file=_results, width=needed, highlight=False)).print(table)
    if hidden and console.is_terminal and not _is_quiet():
        errors.print(f"--wide shows also: {', '.join(hidden)}", style="dim")


def show(text: str) -> None:
    """Write a line to stdout."""
    Plain(file=_results, highlight=False).print(text)


def flush() -> None:
    """Push out what is buffered."""
    (_results or sys.stdout).flush()
