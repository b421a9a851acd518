"""An int8 file that is slower than its float one is not written without a word."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from torchshrink.converters import speed, tflite


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A conversion that converts nothing; its files "run" as long as they are named."""

    class Interpreter:
        def __init__(self, path: Path) -> None:
            self.steps = 3 if path.suffix == ".slow" else 2

        def invoke(self) -> None:
            clock[0] += self.steps

    clock = [0.0]
    monkeypatch.setattr(speed, "_opened", Interpreter)
    monkeypatch.setattr(speed.time, "process_time", lambda: clock[0])
    return tmp_path


def test_what_is_said(stubbed: Path) -> None:
    slow, fast = stubbed / "a.slow", stubbed / "a.fast"
    assert speed.said_of_slower(slow, fast, "a.tflite").startswith(
        "a.tflite: int8 needs 1.5x the time of float on this"
    )
    assert speed.said_of_slower(fast, slow, "a.tflite") == speed.said_of_slower(slow, slow, "a.tflite") == ""


def test_what_does_not_run_here_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> Any:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(speed, "_opened", refuse)
    assert speed.said_of_slower(Path("a"), Path("b"), "a") == ""


@pytest.mark.parametrize(
    ("precision", "target", "count"), [("int8", "litert", 1), ("int8", "edgetpu", 0), ("fp16", "litert", 0)]
)
def test_to_tflite_says_it(
    precision: Any, target: Any, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Converted:
        def __enter__(self) -> list[tflite.FloatFiles]:
            return [tflite.FloatFiles(tmp_path / "float.tflite", tmp_path)]

        def __exit__(self, *_: object) -> None: ...

    for name, value in {"load": lambda _: None, "save": lambda *_: None, "write": lambda *_, **__: None}.items():
        monkeypatch.setattr(tflite, name, value)
    monkeypatch.setattr(tflite, "float_files", lambda _: Converted())
    monkeypatch.setattr(tflite.foreign, "normalise", lambda *_: None)
    monkeypatch.setattr(tflite.qdq, "is_quantized", lambda _: False)
    monkeypatch.setattr(speed, "_ratio", lambda *_: 1.46)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        tflite.to_tflite("m.onnx", tmp_path / "m.tflite", precision, ranges={}, target=target)
    said = [str(each.message) for each in found]
    assert len(said) == count
    assert all("m.tflite: int8 needs 1.5x the time of float on this processor" in each for each in said)
