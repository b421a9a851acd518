"""The program in a fork of this process, which has imported PyTorch already: a start takes no time.

The processes that open model files for it are forks too, and otherwise what they are.
"""

from __future__ import annotations

import io
import math
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

from torchshrink.runtime import process


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


def prepare(words: Sequence[str]) -> None:
    """Call the program here first: its forks have then imported, and listed of PyTorch, what they need.

    Raises:
        RuntimeError: When it fails.
    """
    from torchshrink.cli.app import main

    fork_workers()
    before, said = sys.argv, io.StringIO()
    sys.argv = ["torchshrink", *words]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            main()
    except SystemExit as last:
        if last.code:
            raise RuntimeError(f"{shlex.join(words)} ended with {last.code}: {said.getvalue()[-500:]}") from last
    finally:
        sys.argv = before


def fork_workers() -> None:
    """Let the processes that open model files on one thread be forks too, here and in the forks of this process."""
    process.start = _worker  # type: ignore[assignment]


class _Worker:
    """A script at work, as a `subprocess.Popen` that has pipes for its input and output."""

    def __init__(self, pid: int, stdin: IO[str], stdout: IO[str]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._code: int | None = None

    def kill(self) -> None:
        """End it, unless it has ended."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = math.inf) -> int:
        """Return its exit code, below 0 for a signal, when it has ended.

        Raises:
            TimeoutExpired: When it does not end.
        """
        if self._code is None:
            self._code = end(self.pid, timeout)
        if self._code is None:
            raise subprocess.TimeoutExpired("a worker", timeout)
        return self._code


_START = process.start


def _worker(
    script: Path, threads: int, stderr: IO[bytes], *arguments: str, processor: str = "here"
) -> _Worker | subprocess.Popen[str]:
    """Do what `torchshrink.runtime.process.start` does, on one thread of this kind of processor in a fork."""
    if (threads, processor) != (1, "here"):
        return _START(script, threads, stderr, *arguments, processor=processor)
    (taken, given), (answers, answered) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid:
        os.close(taken)
        os.close(answered)
        return _Worker(pid, os.fdopen(given, "w"), os.fdopen(answers))
    try:
        for ours, theirs in ((taken, 0), (answered, 1), (stderr.fileno(), 2)):
            os.dup2(ours, theirs)
        os.closerange(3, 256)  # the ends of others' pipes: each ends when the program does
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def start(words: Sequence[str], folder: Path, out: Path, err: Path) -> int:
    """Call torchshrink with ``words`` in a folder, in a process group of its own; return the process's id."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _become(words, folder, out, err)
    return pid


def end(pid: int, longest_s: float) -> int | None:
    """Wait for a process and return its exit code, below 0 for a signal; None when it has not ended by then."""
    last = time.monotonic() + longest_s
    while time.monotonic() < last:
        ended, status = os.waitpid(pid, os.WNOHANG)
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
