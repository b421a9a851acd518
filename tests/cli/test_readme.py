"""The code of README and of the site is code: it is parsed or run here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from script import load

from torchshrink import errors
from torchshrink.cli.app import app
from torchshrink.pipeline import recipe
from torchshrink.quantize import is_quantized

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str, *pages: Path) -> list[str]:
    return [
        block
        for page in pages or PAGES
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    ]


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    found = [line.partition("#")[0].strip() for line in lines if line.startswith("torchshrink")]
    return list(dict.fromkeys(found))


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
    readme = blocks("bash", ROOT / "README.md")
    named = {line.split()[0] for block in readme for line in block.splitlines() if line.startswith("scripts/")}
    assert named == {"scripts/demo", "scripts/test"}
    for script in named:
        assert (ROOT / script).stat().st_mode & 0o100


def test_recipes_are_valid() -> None:
    found = [list(recipe.parse(yaml.safe_load(block)).variants) for block in blocks("yaml")]
    assert ["dense", "sparse", "sparse-int8"] in found
    assert len(found) >= 2


def test_what_follows_from_the_code_is_what_the_pages_say() -> None:
    reference = load("reference")
    for name, make in reference.PAGES.items():
        page = ROOT / "docs" / name
        assert reference.put(page, make()) == page.read_text(), "scripts/reference writes it"


def test_all_pages_are_in_the_site_and_links_lead_somewhere() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        if page.parent.name in ("guides", "how", "reference"):
            assert str(page.relative_to(ROOT / "docs")) in site
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_exit_code_has_its_line() -> None:
    text = (ROOT / "docs" / "reference" / "errors.md").read_text()
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ShrinkError)]
    for kind in kinds:
        if kind is not errors.ShrinkError:
            assert re.search(rf"^\| {kind.exit_code} \|.*`{kind.__name__}`", text, re.MULTILINE), kind


def test_the_own_loop_runs() -> None:
    (block,) = blocks("python", ROOT / "docs" / "guides" / "own-loop.md")
    names: dict[str, Any] = {}
    exec(block, names)
    assert is_quantized(names["quantized"])


def test_no_other_python_is_left_out() -> None:
    assert len(blocks("python")) == 2  # the one above and the one below


@pytest.mark.slow
def test_python_runs(tmp_path: Path) -> None:
    (block,) = blocks("python", ROOT / "docs" / "guides" / "python.md")
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
