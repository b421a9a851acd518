"""README and the site say what the code says; tests/cli/test_pages.py runs what stands on them."""

from __future__ import annotations

import re
import shlex

import pages
import pytest
import typer
from script import load

from torchshrink import errors
from torchshrink.cli.app import app

ROOT = pages.ROOT


def commands() -> list[str]:
    every = [line for page in pages.PAGES for line in pages.lines(page)]
    return list(dict.fromkeys(line for line in every if line.startswith("torchshrink")))


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
    named = {line.split()[0] for line in pages.lines(ROOT / "README.md") if line.startswith("scripts/")}
    assert named == {"scripts/demo", "scripts/test"}
    for script in named:
        assert (ROOT / script).stat().st_mode & 0o100


def test_what_follows_from_the_code_is_what_the_pages_say() -> None:
    reference = load("reference")
    for name, make in reference.PAGES.items():
        page = ROOT / "docs" / name
        assert reference.put(page, make()) == page.read_text(), "scripts/reference writes it"


def test_all_pages_are_in_the_site_and_links_lead_somewhere() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    for page in pages.PAGES:
        if page.parent.name in ("guides", "how", "reference"):
            assert str(page.relative_to(ROOT / "docs")) in site
        for target in re.findall(r"(?<!\\)\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_exit_code_has_its_line() -> None:
    text = (ROOT / "docs" / "reference" / "errors.md").read_text()
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ShrinkError)]
    for kind in kinds:
        if kind is not errors.ShrinkError:
            assert re.search(rf"^\| {kind.exit_code} \|.*`{kind.__name__}`", text, re.MULTILINE), kind


def test_every_family_of_messages_is_said_somewhere() -> None:
    """So that whoever looks for what the terminal said finds it; what typer says is not in our sources."""
    folders = [ROOT / name for name in ("torchshrink", "converters", "cli")]
    sources = " ".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    said = " ".join(re.sub(r'"\s+f?"', "", sources).split())
    _, _, table = (ROOT / "docs" / "reference" / "errors.md").read_text().partition("| words |")
    families = re.findall("`([^`]+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line[1:]))
    assert len(families) > 30
    assert [words for words in families if words not in said] == ["No such option"]


def test_changelog_tells_of_this_version() -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(r"^## ([0-9]\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version is not None
    assert newest is not None
    assert version[1] == newest[1]
