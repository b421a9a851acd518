"""How long jobs tell whoever watches; the command line draws it, tests and scripts ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what a job does."""

    def start(self, title: str) -> None:
        """Say which step begins."""

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say how much of the step is done."""

    def note(self, text: str) -> None:
        """Say something that is worth a line of its own."""


class Silent:
    """Ignores everything."""

    def start(self, title: str) -> None:
        """Ignore."""

    def update(self, done: int, total: int, note: str = "") -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


SILENT = Silent()
