"""What befalls a command that works for hours, kills, company, damage, a full disk; and whether it ends well."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from forks import Fork

from torchshrink.files import is_temporary

_PROGRAM = (sys.executable, "-P", "-m", "torchshrink.cli")
_LONGEST_S = 1800.0
_OF_THE_MOMENT = ("latency_ms", "peak_rss_mb", "runtime_rss_mb", "model_rss_mb", "float_time")


@dataclass(frozen=True)
class Command:
    """A command without its ``--out``, and which of the things in that folder are the same every time.

    Without a ``program`` it is one of torchshrink, and a fork of this process runs it.
    """

    words: Sequence[str]
    compared: Sequence[str]
    program: Sequence[str] = ()

    def start(self, out: Path) -> subprocess.Popen[str] | Fork:
        """Start it."""
        if not self.program:
            return Fork([*self.words, "--out", str(out)], out.parent, Path(tempfile.mkstemp(dir=out.parent)[1]))
        return subprocess.Popen(
            self.line(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=out.parent
        )

    def line(self, out: Path) -> list[str]:
        """Return the words of a shell."""
        return [*(self.program or _PROGRAM), *self.words, "--out", str(out)]


@dataclass(frozen=True)
class Ordeal:
    """One thing that befalls a command: its kind, which one of its kind, and what tries it.

    Trying returns what was wrong then, nothing when it was stood, and None where this machine does not allow it.
    """

    kind: str
    which: str
    attempt: Callable[[], str | None]


def finish(command: Command, out: Path) -> float:
    """Run a command to its end and return how long it took, in seconds.

    Raises:
        RuntimeError: When it fails.
    """
    began = time.monotonic()
    code, said = _end(command.start(out))
    if code != 0:
        raise RuntimeError(f"{shlex.join(command.words)} ended with {code}: {said[-500:]}")
    return time.monotonic() - began


def kill(command: Command, undisturbed: Path, out: Path, count: int, seconds: float, seed: int) -> list[Ordeal]:
    """Kill a command at random moments within ``seconds``, and call it again each time."""

    def attempt(kind: signal.Signals, moment: float) -> str:
        shutil.rmtree(out, ignore_errors=True)
        process = command.start(out)
        time.sleep(moment)
        process.send_signal(kind)
        _end(process)
        return _again(command, undisturbed, out)

    chance = random.Random(seed)
    kinds = (signal.SIGKILL, signal.SIGTERM)
    return [
        Ordeal(kind.name, str(number), partial(attempt, kind, chance.uniform(0, seconds)))
        for number, kind in enumerate(itertools.islice(itertools.cycle(kinds), count))
    ]


def crowd(command: Command, undisturbed: Path, out: Path) -> list[Ordeal]:
    """Start a command twice on one folder: one of the two says that it is in use."""

    def attempt() -> str:
        shutil.rmtree(out, ignore_errors=True)
        found = [_end(process) for process in [command.start(out), command.start(out)]]
        codes, said = sorted(code for code, _ in found), " ".join(text for _, text in found)
        problem = "" if codes == [0, 3] and "in use by another process" in said else f"exit codes {codes}"
        return problem or different(command, undisturbed, out)

    return [Ordeal("two processes", "", attempt)]


def damage(command: Command, undisturbed: Path, out: Path, most: int | None = None) -> list[Ordeal]:
    """Cut each file of a finished folder in half, one at a time, and call the command again."""

    def attempt(name: Path) -> str:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(undisturbed, out)
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[: len(content) // 2])
        problem = _again(command, undisturbed, out)
        return f"{name}: {problem}" if problem else ""

    names = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("*") if path.stat().st_size > 1)
    names = [name for name in names if (undisturbed / name).is_file()][:most]
    return [Ordeal("a file cut in half", str(name), partial(attempt, name)) for name in names]


def starve(command: Command, undisturbed: Path, out: Path, step_kb: int) -> list[Ordeal]:
    """Give a command a disk of ``step_kb`` kB, then twice that, until it fits; then room enough."""
    whole_kb = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file()) // 1000
    return [
        Ordeal("a full disk", f"{size} kB", partial(_starved, command, undisturbed, out, size))
        for size in range(step_kb, whole_kb + 2 * step_kb, step_kb)
    ]


def _starved(command: Command, undisturbed: Path, out: Path, size_kb: int) -> str | None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    # A file system in memory, of this process only; what stands in it is carried out when the command has ended.
    inner = f"mount -t tmpfs -o size={size_kb}k tmpfs {shlex.quote(str(out))} || exit 99\n"
    inner += f"{shlex.join(command.line(out / 'run'))}; code=$?\n"
    inner += f"tar -C {shlex.quote(str(out))} -cf {shlex.quote(str(out))}.tar run; exit $code"
    code, said = _end(
        subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=out.parent,
        )
    )  # fmt: skip
    if code == 99 or "unshare" in said:
        return None
    subprocess.run(["tar", "-C", str(out), "-xf", f"{out}.tar"], check=True)
    problem = "" if code == 0 or (code == 3 and "Traceback" not in said) else f"exit code {code}: {said[-200:]}"
    problem = problem or _again(command, undisturbed, out / "run")
    return f"{size_kb} kB: {problem}" if problem else ""


def different(command: Command, undisturbed: Path, out: Path) -> str:
    """Return what a folder lacks, has too much or other than an undisturbed one; nothing when all is the same."""
    left = [path.name for path in out.rglob(".*") if is_temporary(path)]
    if left:
        return f"left {', '.join(left)}"
    wanted, found = (_contents(command, folder) for folder in (undisturbed, out))
    other = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    return f"other {', '.join(other[:5])}" if other else ""


def _again(command: Command, undisturbed: Path, out: Path) -> str:
    code, said = _end(command.start(out))
    return (
        different(command, undisturbed, out) if code == 0 else f"called again: {code}, {' '.join(said.split())[-200:]}"
    )


def _contents(command: Command, folder: Path) -> dict[str, Any]:
    """Return what each compared file holds; of JSON that which does not depend on the moment."""
    paths = [
        path for name in command.compared for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()
    ]
    return {str(path.relative_to(folder)): _content(path) for path in paths}


def _content(path: Path) -> Any:
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    content = json.loads(path.read_text())
    return _lasting({key: value for key, value in content.items() if key != "environment"})


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _OF_THE_MOMENT}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _end(process: subprocess.Popen[str] | Fork) -> tuple[int, str]:
    _, said = process.communicate(timeout=_LONGEST_S)
    return process.returncode, said
