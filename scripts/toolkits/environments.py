"""Make the virtual environment of a toolkit, and run its script in it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from contenders import FOLDER, Toolkit, Variant

Answer = dict[str, Any]
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


class InstallationError(Exception):
    """A toolkit cannot be installed; its argument says why."""


def python_of(toolkit: Toolkit, environments: Path) -> Path:
    """Return the python of a toolkit's environment, whether it exists or not."""
    return environments / toolkit.requirements / "bin" / "python"


def install(toolkit: Toolkit, environments: Path) -> Path:
    """Make the environment unless it is there with these requirements, and return its python."""
    python, requirements = python_of(toolkit, environments), FOLDER / f"{toolkit.requirements}.txt"
    wanted = requirements.read_text()
    mark = environments / toolkit.requirements / "wanted"
    if mark.is_file() and mark.read_text() == wanted:
        return python
    if not python.exists():
        environments.mkdir(parents=True, exist_ok=True)
        _call(f"python{toolkit.python}", "-m", "venv", environments / toolkit.requirements)
    _call(python, "-m", "pip", "install", "--quiet", "--requirement", requirements)
    mark.write_text(wanted)
    return python


def _call(*command: str | Path) -> None:
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallationError(f"cannot be installed: {command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise InstallationError(f"cannot be installed: {' '.join(lines)}")


def make(
    toolkit: Toolkit, variant: Variant, python: Path, inputs: Path, files: Path, limit_s: float, checkout: Path | None
) -> Answer:
    """Run a toolkit's script for one row and return its answer, ``{"path", "note"}`` or ``{"error"}``.

    A file that exists is not made again; what failed before is tried again. What the script prints on stderr is kept
    beside the file, in ``.log``.
    """
    out = files / toolkit.row(variant)
    kept = Path(f"{out}.json")
    if kept.is_file():
        answer: Answer = json.loads(kept.read_text())
        return answer
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= dict.fromkeys(THREADS, "1")
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout)
    command = [str(python), str(FOLDER / toolkit.script), variant.name, str(inputs), str(out)]
    with Path(f"{out}.log").open("w") as log:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"no result in {limit_s:g} s"}
        except OSError as error:
            return {"error": f"{python}: {error.strerror}"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        words = [line.strip() for line in Path(f"{out}.log").read_text(errors="replace").splitlines() if line.strip()]
        return {"error": f"ended with exit code {done.returncode}: {' '.join(words[-1:])}"}
    answer = json.loads(lines[-1])
    if "error" not in answer:
        kept.write_text(json.dumps(answer))
    return answer
