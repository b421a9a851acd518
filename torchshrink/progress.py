"""How long jobs tell whoever watches; the command line draws it, tests and scripts ignore it."""

from __future__ import annotations

import logging
from typing import Protocol

_logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Receives what a job does."""

    def start(self, title: str) -> None:
        """Say which step begins."""

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say how much of the step is done."""

    def note(self, text: str) -> None:
        """Say something that is worth a line of its own."""


class Silent:
    """Shows nothing; who wants to know routes the logger ``torchshrink``: steps are INFO, how far they are is DEBUG."""

    def start(self, title: str) -> None:
        """Log."""
        _logger.info("%s", title)

    def update(self, done: int, total: int, note: str = "") -> None:
        """Log."""
        _logger.debug("%d of %d %s", done, total, note)

    def note(self, text: str) -> None:
        """Log."""
        _logger.info("%s", text)


SILENT = Silent()


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(0.4), duration(75), duration(7320)
    ('0 s', '1 min 15 s', '2 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
