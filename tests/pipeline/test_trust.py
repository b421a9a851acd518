"""What a recipe may import without the user's word: what Python files of the current folder define."""

import sys
from pathlib import Path
from typing import Any

import pytest
from program import call

from torchshrink.errors import RecipeError
from torchshrink.pipeline import recipe, trust


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with code of the user's that would tell that it was imported."""
    (tmp_path / "here" / "mine_too").mkdir(parents=True)
    told = "open('imported', 'w').close()\n"
    text = "from os import system\nfrom mine_too import shared\nfrom torch import nn\ndef make(): ...\nother = make\n"
    (tmp_path / "here" / "mine_of_test.py").write_text(told + text)
    (tmp_path / "here" / "mine_too" / "__init__.py").write_text(
        told + "from .parts import shared\nfrom os import popen\n"
    )
    (tmp_path / "here" / "mine_too" / "parts.py").write_text(told + "def shared(): ...\n")
    (tmp_path / "here" / "subprocess.py").write_text("def Popen(): ...\n")
    (tmp_path / "here" / "broken_of_test.py").write_text("def make(:\n")
    (tmp_path / "outside_of_test.py").write_text("def make(): ...\n")
    (tmp_path / "here" / "link_of_test.py").symlink_to(tmp_path / "outside_of_test.py")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def of(**settings: Any) -> recipe.Recipe:
    return recipe.parse(settings)


@pytest.mark.parametrize(
    "reference",
    ["mine_of_test:make", "mine_of_test:other", "mine_of_test:shared", "mine_too:shared", "mine_too.parts:shared"],
)
def test_code_of_this_folder(folder: Path, reference: str) -> None:
    trust.check(of(data=reference, model={"factory": reference}, loss={"name": reference}), "r.yaml")
    assert not (folder / "imported").exists()


@pytest.mark.parametrize(
    "reference",
    [
        "subprocess:Popen",  # a file of that name lies here, but the standard library's is imported already
        "os:system",
        "builtins:exec",
        "posix:system",
        "torch.hub:load",
        "pickle:loads",
        "mine_of_test:system",  # only imported there
        "mine_of_test:nn",
        "mine_too:popen",
        "mine_of_test:absent",
        "mine_too.absent:make",
        "absent_of_test:make",
        "broken_of_test:make",
        "outside_of_test:make",
        "link_of_test:make",
        "..outside_of_test:make",
        "mine_too/../../outside_of_test:make",
        ":make",
        "mine_of_test:",
    ],
)
def test_other_code(folder: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder.parent))
    before = set(sys.modules)
    for what, settings in (("model", {"model": {"factory": reference}}), ("loss", {"loss": {"name": reference}})):
        with pytest.raises(RecipeError, match=f"r.yaml would import and call {what} .*--trust"):
            trust.check(of(**settings), "r.yaml")
    assert set(sys.modules) == before
    assert not (folder / "imported").exists()


def test_every_reference_is_named() -> None:
    found = of(data="a:b", model={"factory": "c:d"}, loss={"name": "e:f"})
    assert trust.references(found) == {"model": "c:d", "loss": "e:f", "data": "a:b"}
    assert trust.references(of(data="synthetic:cells")) == {}


@pytest.mark.parametrize("command", ["run", "search"])
def test_a_strangers_recipe_runs_nothing(tmp_path: Path, command: str) -> None:
    created = tmp_path / "created"
    text = f"model: {{factory: 'os:mkdir', arguments: {{path: {created}}}}}\n"
    (tmp_path / "r.yaml").write_text(text + "data: 'synthetic:cells?size=32&train=8&test=4'\n")
    found = call(command, "r.yaml", cwd=tmp_path)
    assert (found.code, created.exists()) == (3, False)
    assert "r.yaml would import and call model os:mkdir" in found.stderr
    assert not (tmp_path / "runs").exists()
    call(command, "r.yaml", "--trust", cwd=tmp_path)
    assert created.exists()
