"""Say where a file that was to be faster is not: an int8 TFLite file against the float one that it was made from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from torchshrink.quiet import silent_stderr

ALLOWED = 1.1  # times the float file's time; less is noise
_ROUNDS, _MOST_SECONDS = 20, 1.0


def said_of_slower(int8: Path, floats: Path, name: str) -> str:
    """Return a sentence when an int8 file needs more time than the float one, here and on one thread; else nothing.

    Args:
        int8: The file.
        floats: Its float counterpart.
        name: What the sentence calls it.
    """
    try:
        ratio = _ratio(int8, floats)
    except (RuntimeError, ValueError):  # what does not run here is for other devices
        return ""
    if not ratio > ALLOWED:
        return ""
    return (
        f"{name}: int8 needs {ratio:.1f}x the time of float on this processor: it saves bytes and memory; for speed "
        "ship the float file, or remove channels; `torchshrink inspect` says which operations take the time"
    )


def _ratio(int8: Path, floats: Path) -> float:
    """Return how many times the processor time of the second file the first one needs, the two taking turns."""
    with silent_stderr():
        interpreters = [_opened(path) for path in (int8, floats)]
    best = [np.inf, np.inf]
    end = time.monotonic() + _MOST_SECONDS
    for _ in range(_ROUNDS):
        for place, interpreter in enumerate(interpreters):
            start = time.process_time()
            interpreter.invoke()
            best[place] = min(best[place], time.process_time() - start)
        if time.monotonic() > end:
            break
    return float(best[0] / max(best[1], 1e-9))


def _opened(path: Path) -> Any:
    """Return an interpreter with its default delegates that has its inputs, all zeros, and has run once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
    interpreter.invoke()
    return interpreter
