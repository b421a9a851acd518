"""Functions that open a model file in its runtime, called in a process of their own: its death is a sentence."""

from __future__ import annotations

import pickle
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torchshrink import errors
from torchshrink.errors import ModelError
from torchshrink.runtime import _host
from torchshrink.runtime.process import cause_of_death, command, environment

_Result = TypeVar("_Result")
TIMEOUT_S = 600.0


def call(
    function: Callable[..., _Result], path: Path, *, threads: int = 1, timeout_s: float = TIMEOUT_S, **arguments: Any
) -> _Result:
    """Return ``function(path=path, threads=threads, **arguments)``, computed by a fresh process.

    The process has no more memory than the machine, and so much time.

    Args:
        function: Of a module that imports little: the process has to.
        path: The file that it opens.
        threads: How many threads the runtime may use.
        timeout_s: The longest that it may take, in seconds.
        arguments: What else it takes; they and the result are pickled.

    Raises:
        ShrinkError: What the function raised; ModelError when it raised something else, died, or took too long.
    """
    order = (function.__module__, function.__name__, {"path": path, "threads": threads, **arguments})
    with tempfile.TemporaryFile() as stderr:  # a pipe would block a chatty runtime
        with subprocess.Popen(
            [*command(), str(Path(_host.__file__))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment(threads),
        ) as process:  # fmt: skip
            try:
                reply, _ = process.communicate(pickle.dumps(order), timeout_s)
            except subprocess.TimeoutExpired:
                raise ModelError(f"{path} was not done in {timeout_s:g} s: it may never be; use another file") from None
            finally:
                process.kill()
        if process.returncode != 0 or not reply:
            raise ModelError(f"the runtime could not run {path}: {cause_of_death(process.returncode, stderr)}")
    kind, found = pickle.loads(reply)
    if kind == _host.RESULT:
        result: _Result = found
        return result
    if kind == _host.FAILED:
        if missing := errors.missing_extra_of(found):
            raise missing
        raise ModelError(f"{path} cannot be used: {found}; export it again, or copy it again")
    raise getattr(errors, kind)(found)
