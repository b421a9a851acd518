"""The asking side of `_worker.py`: a fresh process for one model file, whose death is an error and not ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from torchshrink.errors import ModelError, missing_extra_of
from torchshrink.runtime import _model_files, _worker, processors
from torchshrink.settings import check_threads

_SCRIPT = Path(_worker.__file__)
_VERBS = {"load": "load", "once": "run", "time": "run", "predict": "run", "profile": "profile"}
_RUNTIME_NAMES = {".onnx": "onnxruntime", ".tflite": "LiteRT", ".pt2": "PyTorch", ".safetensors": "PyTorch"}
_STDERR_BYTES = 4000


class Worker:
    """A context manager around one worker process; the process is killed at the end of the block, however it ends.

    Args:
        path: A ``.onnx``, ``.tflite``, ``.pt2`` or ``.safetensors`` file.
        threads: How many threads the runtime may use.
        timeout_s: The longest that one answer may take, in seconds.
        allow_pickle: Open a ``.pt2`` file, whose parts torch unpickles: that runs any code its author put in.
        processor: Which kind of processor runs it, one of `processors.KINDS`; others than this one are emulated.

    Raises:
        MissingExtraError: When an emulator is not installed.
        ModelError: When there is no such file, its ending is none of the above, or it is a pickle that nobody trusts.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int = 1,
        timeout_s: float = 600.0,
        allow_pickle: bool = False,
        processor: str = processors.HERE,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix not in _model_files.RUNTIMES:
            raise ModelError(f"{self.path} cannot be measured: expected a file in {', '.join(_model_files.RUNTIMES)}")
        if not self.path.is_file():
            raise ModelError(f"no such model file: {self.path}")
        if self.path.suffix == ".pt2" and not allow_pickle:
            raise ModelError(
                f"{self.path} holds pickles, which can run code when they are opened: if you trust its author, pass "
                "--allow-pickle, or measure its .safetensors or .onnx"
            )
        processors.launcher(processor)  # raises now what it would raise when the process starts
        check_threads(threads)
        self._processor = processor
        self.threads = threads
        self.timeout_s = timeout_s
        self._timed_out = False
        self._process: subprocess.Popen[str]
        self._stderr: IO[bytes]

    def __enter__(self) -> Worker:
        self._stderr = tempfile.TemporaryFile()  # a pipe would block a chatty runtime
        self._started_ns = time.perf_counter_ns()
        try:
            self._process = start(_SCRIPT, self.threads, self._stderr, processor=self._processor)
        except BaseException:
            self._stderr.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe:
                    pipe.close()
            except OSError:
                pass  # an unsent command, to a process that is gone
        self._stderr.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def age_ms(self) -> float:
        """How long ago the process was started, in ms."""
        return (time.perf_counter_ns() - self._started_ns) / 1e6

    def load(self, inputs: Path | None = None, *, fit: bool = False) -> dict[str, Any]:
        """Open the file; ``inputs`` is the ``.npy`` of one sample, for the commands ``once``, ``time`` and ``profile``.

        With ``fit`` the file is opened for the size of the sample where that is not its own; see `_worker.py`.
        """
        path = str(self.path.resolve())
        return self.ask("load", path=path, threads=self.threads, inputs=str(inputs) if inputs else None, fit=fit)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one command of `_worker.py` and return its answer.

        Raises:
            ModelError: When the worker reports an error, dies, or takes longer than ``timeout_s``.
            MissingExtraError: When its runtime is not installed.
        """
        line = self._exchange(json.dumps({"do": do, **arguments}) + "\n")
        runtime, action = _RUNTIME_NAMES[self.path.suffix], f"{_VERBS.get(do, do)} {self.path}"
        if not line.endswith("\n"):
            raise self._error(f"{runtime} could not {action}: {self._cause_of_death()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            if missing := missing_extra_of(reply["error"]):
                raise missing
            hint = "; export it again, or copy it again" if do == "load" else ""
            raise self._error(f"{runtime} cannot {action}: {reply['error'].rstrip('.')}{hint}")
        return reply

    def _exchange(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self.timeout_s, self._expire)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except OSError:
            return ""
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _cause_of_death(self) -> str:
        if self._timed_out:
            return f"no answer in {self.timeout_s:g} s, use a smaller model or input"
        return cause_of_death(self._process.wait(), self._stderr)

    def _error(self, message: str) -> ModelError:
        error = ModelError(message)
        if lines := _last_lines(self._stderr):
            error.add_note("The runtime's last lines:\n" + "\n".join(lines[-20:]))
        return error


def start(
    script: Path, threads: int, stderr: IO[bytes], *arguments: str, processor: str = processors.HERE
) -> subprocess.Popen[str]:
    """Start a script of ours whose runtime may use so many threads, with pipes for JSON in and out."""
    return subprocess.Popen(
        [*command(processor), str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment(threads),
        encoding="utf-8",
    )


def cause_of_death(code: int, stderr: IO[bytes]) -> str:
    """Say how a process ended, by its exit code and its last words."""
    last = (_last_lines(stderr) or ["it left no message"])[-1]
    if code < 0:
        name = signal.Signals(-code).name
        hint = "probably out of memory" if name == "SIGKILL" else "the file is damaged: export it again"
        return f"its process was ended by {name} ({last}); {hint}"
    return f"its process ended with exit code {code} ({last})"


def _last_lines(stderr: IO[bytes]) -> list[str]:
    """Return the end of what a process wrote to a file, without moving the place where it writes."""
    size = os.fstat(stderr.fileno()).st_size
    content = os.pread(stderr.fileno(), _STDERR_BYTES, max(0, size - _STDERR_BYTES))
    return [line.strip() for line in content.decode(errors="replace").splitlines() if line.strip()]


def command(processor: str = processors.HERE) -> list[str]:
    """Return the beginning of a command that runs a script of ours."""
    return [*processors.launcher(processor), "-P"]


def environment(threads: int) -> dict[str, str]:
    """Return ours, with the threads set and idle ones asleep; a worker has no business on the network, so no proxy.

    Runtimes are not made for a Python without docstrings.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and name != "PYTHONOPTIMIZE"
    }
    return kept | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
