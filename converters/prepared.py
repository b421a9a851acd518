"""Scripts that need TensorFlow, run by forks of one Python that has imported it, which takes longer than converting.

The first script starts that Python. It ends with the process that asked, however that ends, or after two minutes
without work; a script that crashes takes nothing along.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from torchshrink.converters import _fork_host, environment

_SETTINGS = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"}


def run(script: Path, argument: Path, folder: Path) -> tuple[int, str]:
    """Run a script of ours in the Python of `environment.python` and return its exit status and all that it printed.

    Args:
        script: Its file.
        argument: What it is called with.
        folder: Where it works; its ``log`` there stays.

    Raises:
        MissingExtraError: When there is no such Python and none can be made.
    """
    python = environment.python()
    log = folder / "log"
    # TensorFlow cannot do without docstrings.
    variables = _SETTINGS | {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
    order = {"argv": [str(script), str(argument)], "folder": str(folder), "environment": variables, "log": str(log)}
    status, said = _HOST.ask(python, order)
    return status, (log.read_text(errors="replace") if log.is_file() else "") + said


class Host:
    """The process of `_fork_host.py`, while there is one; it imports the named modules."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._python = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes]
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._leave)

    def ask(self, python: str, order: Mapping[str, Any]) -> tuple[int, str]:
        """Return the exit status of a script, and what the host said where it was the host that ended."""
        with self._lock:
            for _ in range(2):  # one that had nothing to do for long may end just when it is asked
                process = self._started(python, order["environment"])
                answer = self._exchange(process, order)
                if answer or process.wait():
                    break
            if answer:
                return int(answer), ""
            self._stderr.seek(0)
            return process.returncode, self._stderr.read().decode(errors="replace")

    def _started(self, python: str, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Return the process, a new one where there is none that lives and is of this Python."""
        if self._process is not None and self._process.poll() is None and self._python == python:
            return self._process
        self.close()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe would block it
        self._python = python
        command = [python, "-P", _fork_host.__file__, *self._modules]
        self._process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=variables
        )
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> bytes:
        """Return the answer, or nothing when the process ends without one."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        except BaseException:  # interrupted: the script is not to go on
            self.close()
            raise

    def close(self) -> None:
        """End the process, and with it what it runs."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()
            self._stderr.close()

    def _leave(self) -> None:
        """Let go of the process in a fork of ours: it is the parent's."""
        self._lock = threading.Lock()
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process.returncode = 0  # nothing to wait for
            self._process = None


# TensorFlow's converter imports Keras to see that a model is not one of its own.
_HOST = Host("onnx2tf.onnx2tf", "tf_keras", "keras")
