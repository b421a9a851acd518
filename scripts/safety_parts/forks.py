"""The program in a fork of this process, which has imported PyTorch already: a start takes no time."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_MODULES = (
    "torchshrink.cli.app",
    "torchshrink.pipeline.run",
    "torchshrink.search.run",
    "torchshrink.converters.bridge",
)


class Fork:
    """The program at work: what it says is read when it has ended, as of a `subprocess.Popen`.

    Attributes:
        returncode: The exit code, below 0 for a signal, once it has ended.
    """

    def __init__(self, words: Sequence[str], folder: Path, err: Path) -> None:
        self._err = err
        self._process = start(words, folder, Path(os.devnull), err)
        self.returncode = 0

    def send_signal(self, kind: signal.Signals) -> None:
        """Send a signal to it, and to none of the processes that it started."""
        os.kill(self._process, kind)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait until it ends and return what it said, on stderr alone.

        Raises:
            TimeoutExpired: When it does not end.
        """
        code = end(self._process, timeout)
        if code is None:
            raise subprocess.TimeoutExpired("torchshrink", timeout)
        self.returncode = code
        return "", self._err.read_text(errors="replace")


def prepare() -> None:
    """Import what forks need."""
    for name in _MODULES:
        importlib.import_module(name)


def start(words: Sequence[str], folder: Path, out: Path, err: Path) -> int:
    """Call torchshrink with ``words`` in a folder, in a process group of its own; return the process's id."""
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        _become(words, folder, out, err)
    return process


def end(process: int, longest_s: float) -> int | None:
    """Wait for a process and return its exit code, below 0 for a signal; None when it has not ended by then."""
    last = time.monotonic() + longest_s
    while time.monotonic() < last:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def _become(words: Sequence[str], folder: Path, out: Path, err: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = out.open("w", buffering=1), err.open("w", buffering=1)
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        from torchshrink.cli.app import main

        sys.argv = ["torchshrink", *words]
        main()
        code = 0
    except SystemExit as last:
        code = last.code if isinstance(last.code, int) else int(last.code is not None)
    finally:
        os._exit(code)
