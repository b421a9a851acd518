"""The program as a user calls it, for the tests of the command line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

RECIPE = """\
version: 1
data: synthetic:cells?size=32&train=40&test=8
model: {arguments: {widths: [8, 16]}}
variants:
  dense: {train: {epochs: 4}}
  pruned: {from: dense, prune: {amount: 0.8, epochs: 2}}
  pruned-qat: {from: pruned, qat: {epochs: 2}}
measure: {threads: 1, runs: 5}
"""


@dataclass
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """What stands on stderr, without the frame and the line breaks of a usage error."""
        return " ".join(self.stderr.replace("│", " ").split())

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def call(*arguments: str | Path, cwd: Path | None = None) -> Result:
    """Call the program in this process, which has imported already what takes a new one seconds.

    Everything that reaches the two streams counts, also what libraries and processes of the program write.
    """
    from torchshrink.cli.app import app

    with _streams() as (out, err), contextlib.chdir(cwd or "."), _default_warnings():
        try:
            app([str(argument) for argument in arguments], prog_name="torchshrink")
        except SystemExit as end:
            code = end.code
        return Result(int(code or 0), _text(out), _text(err))


def launch(*arguments: str | Path, cwd: Path | None = None, timeout: int = 600) -> Result:
    """Call the program in a process of its own: for what only that shows. It takes seconds before it begins."""
    command = [sys.executable, "-P", "-c", "from torchshrink.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def _streams() -> Iterator[tuple[TextIO, TextIO]]:
    """Redirect both streams to files, for Python and below it."""
    with tempfile.TemporaryFile("w+", buffering=1) as out, tempfile.TemporaryFile("w+", buffering=1) as err:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield out, err
        finally:
            for number, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)


@contextlib.contextmanager
def _default_warnings() -> Iterator[None]:
    """Show warnings as a new Python does: those for developers not at all, the others on stderr."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda *shown: sys.stderr.write(warnings.formatwarning(*shown[:4]))
        yield


def _text(file: TextIO) -> str:
    file.seek(0)
    return file.read()


@dataclass
class Run:
    recipe: Path
    out: Path
    result: Result

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return content

    def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        return [row for row in self.report["rows"] if all(row[key] == value for key, value in wanted.items())]
