"""Call one function in a process of its own. Run as a script; `apart.py` starts it.

It reads ``(module, function, arguments)`` as a pickle on stdin and writes ``(kind, answer)`` as one on stdout: the
result, or the name of a class of `torchshrink.errors` and a text. Both ends are ours.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from typing import Any

from torchshrink.errors import ShrinkError
from torchshrink.runtime.limits import limit_memory

RESULT, FAILED = "result", "failed"


def answer(module: str, function: str, arguments: dict[str, Any]) -> tuple[str, Any]:
    """Return the kind of an answer and the answer."""
    try:
        return RESULT, getattr(importlib.import_module(module), function)(**arguments)
    except ShrinkError as error:
        return type(error).__name__, str(error)
    except Exception as error:
        return FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"


def main() -> None:
    """Answer the call that stands on stdin."""
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # what runtimes print there is no answer
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        limit_memory()
        pickle.dump(answer(*pickle.load(sys.stdin.buffer)), replies)


if __name__ == "__main__":
    main()
