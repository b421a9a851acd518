"""The README's code is code: it is parsed or run here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from torchshrink.cli.app import app
from torchshrink.pipeline import recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("torchshrink")]


@pytest.mark.parametrize("line", commands())
def test_commands_are_accepted_by_the_program(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, arguments)
    context.close()
    assert context.args == []  # nothing is left over


def test_a_wrong_command_would_be_refused() -> None:
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="No such option"):
        command.make_context("run", ["--nonsense"])


def test_scripts_exist_and_can_be_executed() -> None:
    named = {line.split()[0] for block in blocks("bash") for line in block.splitlines() if line.startswith("scripts/")}
    assert named == {"scripts/demo", "scripts/test"}
    for script in named:
        assert (ROOT / script).stat().st_mode & 0o100


def test_recipe_is_valid() -> None:
    (block,) = blocks("yaml")
    assert list(recipe.parse(yaml.safe_load(block)).variants) == ["dense", "sparse", "sparse-int8"]


@pytest.mark.slow
def test_python_runs(tmp_path: Path) -> None:
    (block,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-P", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    sparsity, share, measurement = done.stdout.splitlines()
    assert abs(float(sparsity) - 0.8) < 1e-2
    assert 0.3 < float(share) <= 0.6
    assert "peak_rss_mb" in measurement
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.tflite"}


def test_changelog_tells_of_this_version() -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(r"^## ([0-9]\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version is not None
    assert newest is not None
    assert version[1] == newest[1]
