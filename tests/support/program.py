"""The program as a user calls it, for the tests of the command line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from torchshrink.cli.app import app

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
    def json(self) -> Any:
        return json.loads(self.stdout)


def call(*arguments: str | Path, cwd: Path | None = None, timeout: int = 600) -> Result:
    command = [sys.executable, "-P", "-c", "from torchshrink.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def invoke(*arguments: str | Path, cwd: Path | None = None) -> Result:
    """Call the program in this process, which is quick: for what no process of its own has to show."""
    with contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    return Result(done.exit_code, done.stdout, done.stderr)


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
