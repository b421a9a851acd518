"""Where TensorFlow, onnx2tf and ai-edge-quantizer run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from torchshrink.converters import environment
from torchshrink.errors import MissingExtraError


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run to make an environment, in a cache folder of the test's own."""
    called: list[list[str]] = []

    def call(command: list[str]) -> None:
        called.append(command)
        if "venv" in command:
            Path(command[-1], "bin").mkdir(parents=True)

    monkeypatch.setattr(environment, "_call", call)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "is_here", lambda: False)
    return called


def test_the_first_conversion_makes_it_and_says_so(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = environment.python()
    assert Path(python).parents[2] == tmp_path / "torchshrink"
    assert "once" in capsys.readouterr().err
    assert commands[-1][-len(environment.packages()) :] == environment.packages()
    assert any("onnx2tf" in package for package in environment.packages())
    assert environment.python() == python
    assert len(commands) == 2
    assert capsys.readouterr().err == ""
    assert [path.name for path in (tmp_path / "torchshrink").iterdir()] == [environment.folder().name]


def test_other_packages_get_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.folder()
    monkeypatch.setattr(environment, "packages", lambda: ["onnx2tf==9"])
    assert environment.folder() != before


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "is_here", lambda: False)
    monkeypatch.setattr(environment, "packages", lambda: ["--no-index", "nothing-of-this-name"])
    with pytest.raises(
        MissingExtraError, match=r"cannot be installed .*doctor --prepare tflite.*TORCHSHRINK_CONVERTER"
    ):
        environment.python()
    assert list((tmp_path / "torchshrink").iterdir()) == []


def test_a_python_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.is_here()
    assert environment.python() == sys.executable
    monkeypatch.setenv(environment.VARIABLE, sys.executable)
    assert not environment.is_here()
    assert environment.python() == sys.executable


def test_a_python_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv(environment.VARIABLE, str(bare))
    with pytest.raises(
        MissingExtraError, match=r"lacks \['onnx2tf', 'tensorflow', 'ai_edge_quantizer'\]: name a Python"
    ):
        environment.python()


def test_no_python_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.VARIABLE, "/nowhere/python")
    with pytest.raises(MissingExtraError, match="TORCHSHRINK_CONVERTER=/nowhere/python cannot be started"):
        environment.python()


def test_the_second_converter_is_made_when_asked_for(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingExtraError, match="doctor --prepare litert-torch"):
        environment.second()
    made = environment.prepare_second()
    assert environment.second() == str(made / "bin" / "python")
    assert commands[-1][-1] == environment.SECOND_PACKAGES[0]
    assert made != environment.folder()
    monkeypatch.setenv(environment.SECOND_VARIABLE, sys.executable)
    assert environment.second() == sys.executable
