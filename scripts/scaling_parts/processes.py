"""Run one measurement in a fresh process and watch how much memory it and its children take; Linux only."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_EVERY_S = 0.05
# What a child is, by the script that it runs.
CHILDREN = {"_fork_host.py": "converter_mb", "_worker.py": "runtime_mb"}


def run(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run a command that prints one JSON object as its last line, and return that with its children's peaks.

    Args:
        command: What to run.
        limit_s: Processor seconds of all its processes after which it is ended; other work on the machine counts not.

    Returns:
        The object, with ``converter_mb`` and ``runtime_mb`` where such children were seen. When there is none: an
        ``error``, and the ``peak_mb`` and ``cpu_seconds`` seen until then.
    """
    with (
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=said, stderr=log, text=True) as process,
    ):
        peaks, used, broken = watch(process.pid, lambda: process.poll() is None, limit_s)
        said.seek(0)
        log.seek(0)
        lines = said.read().splitlines()
        words = [line for line in log.read().splitlines() if line.strip()]
    own = peaks.pop("peak_mb", 0.0)
    del peaks["family_mb"]
    if process.returncode == 0 and lines:
        return {**json.loads(lines[-1]), **peaks}
    ended = f"ended with {process.returncode}: {' '.join(words[-1:])}"
    return {"error": broken or ended, "cpu_seconds": used, "peak_mb": own, **peaks}


def watch(
    process: int, is_running: Callable[[], bool], limit_s: float, limit_mb: float = math.inf
) -> tuple[dict[str, float], float, str]:
    """Wait for a process, and end it and its children where they take more than they may.

    Args:
        process: Its number.
        is_running: Asked whether it is still there.
        limit_s: Processor seconds of all of them.
        limit_mb: Memory of all of them at one time, in MB of 1e6 bytes.

    Returns:
        Its and its children's peaks by name, ``family_mb`` being what all held at one time, in MB; the processor
        seconds that were seen; and which limit was broken, in words, or nothing.
    """
    peaks, broken, used = {"family_mb": 0.0}, "", 0.0
    while is_running():
        family = [process, *_descendants(process)]
        _watch(family, peaks)
        used = max(used, sum(map(_cpu_seconds, family)))
        peaks["family_mb"] = max(peaks["family_mb"], sum(_status_mb(each, "VmRSS") for each in family))
        if not broken and (used > limit_s or peaks["family_mb"] > limit_mb):
            late = f"not done after {limit_s:g} s of processor time"
            broken = late if used > limit_s else f"took more than {limit_mb:g} MB of memory"
            for each in reversed(family):  # children first: they would go on without their parent
                os.kill(each, signal.SIGKILL)
        time.sleep(_EVERY_S)
    return peaks, used, broken


def family_seconds(process: int) -> float:
    """Return the processor time of a process and of all that it started, those that still run included."""
    return sum(map(_cpu_seconds, [process, *_descendants(process)]))


def peak_mb(process: str | int) -> float:
    """Return a process's largest resident set so far, in MB of 1e6 bytes; 0 when it just ended."""
    return _status_mb(process, "VmHWM")


def _status_mb(process: str | int, field: str) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field)), 0.0)


def _watch(family: Sequence[int], peaks: dict[str, float]) -> None:
    """Note the largest peaks of a process and of its children that are named in `CHILDREN`."""
    first, *children = family
    peaks["peak_mb"] = max(peaks.get("peak_mb", 0.0), peak_mb(first))
    for child in children:
        # Asked first: until a child runs its own program, its memory and its arguments are those of its parent.
        kind = _kind(child) if _arguments(child) != _arguments(first) else None
        if kind is not None:
            peaks[kind] = max(peaks.get(kind, 0.0), peak_mb(child))


def _cpu_seconds(process: int) -> float:
    """Return the processor time of a process and of its children that ended; 0 when it just ended itself."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _kind(process: int) -> str | None:
    names = {Path(argument).name for argument in _arguments(process)}
    return next((kind for script, kind in CHILDREN.items() if script in names), None)


def _arguments(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return []


def _descendants(process: int) -> list[int]:
    found = []
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(child) for child in listing.read_text().split()]
        except OSError:
            continue
        found += [each for child in children for each in (child, *_descendants(child))]
    return found
