"""Functions in a process of their own: what they return and raise arrives, their death is a sentence."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchshrink.errors import ConversionError, ModelError
from torchshrink.runtime import apart
from torchshrink.settings import check_threads

PATH = Path("m.tflite")


def double(path: Path, threads: int, values: Any) -> tuple[str, int, Any]:
    print("not an answer")
    return str(path), threads, 2 * values


def refuse(path: Path, threads: int) -> None:
    raise ConversionError(f"{path} is of no use on {threads} threads")


def stumble(path: Path, threads: int) -> None:
    raise IndexError(f"{path} {threads}")


def crash(path: Path, threads: int) -> None:
    ctypes.string_at(0)


def leave(path: Path, threads: int) -> None:
    os._exit(7)


def sleep(path: Path, threads: int) -> None:
    time.sleep(600)


def limits(path: Path, threads: int) -> list[int]:
    return [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CORE)]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    for function in (double, refuse, stumble, crash, leave, sleep, limits):
        monkeypatch.setattr(function, "__module__", Path(__file__).stem)


def test_results() -> None:
    path, threads, values = apart.call(double, PATH, threads=2, values=np.arange(3))
    assert (path, threads, values.tolist()) == ("m.tflite", 2, [0, 2, 4])


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (refuse, ConversionError, "m.tflite is of no use on 1 threads"),
        (stumble, ModelError, r"m\.tflite cannot be used: IndexError: m\.tflite 1; export it again"),
        (crash, ModelError, r"the runtime could not run m\.tflite: its process was ended by SIGSEGV"),
        (leave, ModelError, r"could not run m\.tflite: its process ended with exit code 7"),
    ],
)
def test_failures(function: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        apart.call(function, PATH)


def test_what_never_ends() -> None:
    with pytest.raises(ModelError, match=r"m\.tflite was not done in 1 s"):
        apart.call(sleep, PATH, timeout_s=1.0)


def test_the_machine_is_the_limit() -> None:
    memory, core = apart.call(limits, PATH)
    assert memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (memory > 0, core) == (True, 0)


@pytest.mark.parametrize("threads", [0, -1, 1025, 100000])
def test_threads(threads: int) -> None:
    from torchshrink.converters.anatomy.inspect import inspect
    from torchshrink.errors import RecipeError
    from torchshrink.runtime.process import Worker

    for use in (check_threads, lambda count: Worker(__file__, threads=count), lambda n: inspect(PATH, threads=n)):
        with pytest.raises((RecipeError, ModelError), match=f"threads={threads}|cannot be measured"):
            use(threads)
