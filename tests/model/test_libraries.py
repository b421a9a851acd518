"""Models of timm and torchvision, which are not installed here: their functions are stood in for."""

import sys
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from torchshrink.errors import MissingExtraError, ModelError, RecipeError
from torchshrink.model import libraries
from torchshrink.pipeline import recipe, trust
from torchshrink.pipeline.assemble import resolve


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the libraries were asked for."""
    found: list[tuple[str, dict[str, Any]]] = []

    def create(name: str, **arguments: Any) -> nn.Module:
        found.append((name, arguments))
        if name == "absent":
            raise RuntimeError("Unknown model (absent)")
        if name == "resnet17":
            raise ValueError("Unknown model resnet17")
        return nn.Linear(1, arguments.get("num_classes", 1000))

    timm, torchvision, models = ModuleType("timm"), ModuleType("torchvision"), ModuleType("torchvision.models")
    timm.create_model = create  # type: ignore[attr-defined]
    models.get_model = create  # type: ignore[attr-defined]
    for module in (timm, models):
        module.list_models = lambda: ["resnet18", "resnet34", "vit_tiny"]  # type: ignore[attr-defined]
    for module in (timm, torchvision, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_by_name(calls: list[tuple[str, dict[str, Any]]], library: str) -> None:
    made = resolve(f"{library}:resnet18?num_classes=10&pretrained=true", "model")(in_chans=1)
    assert isinstance(made, nn.Linear)
    assert made.out_features == 10
    assert calls == [("resnet18", {"num_classes": 10, "pretrained": True, "in_chans": 1})]


def test_an_unknown_name(calls: list[tuple[str, dict[str, Any]]]) -> None:
    with pytest.raises(ModelError, match=r"timm cannot make 'absent': Unknown model \(absent\)$"):
        resolve("timm:absent", "model")()
    with pytest.raises(ModelError, match=r"'resnet17' with \{'a': 1\}: .*; near it are resnet18, resnet34$"):
        resolve("torchvision:resnet17?a=1", "model")()


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_not_installed(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # importing it fails
    monkeypatch.setitem(sys.modules, f"{library}.models", None)
    with pytest.raises(MissingExtraError, match=f"needs {library}, which is not installed: pip install {library}"):
        resolve(f"{library}:resnet18", "model")


def test_installed_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(libraries.importlib, "import_module", fail)  # type: ignore[attr-defined]
    with pytest.raises(MissingExtraError, match=r"installed but cannot be imported \(operator .*fits torch 2\."):
        resolve("torchvision:resnet18", "model")


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp/x", "a/b"])
def test_addresses_are_no_names(name: str) -> None:
    assert not libraries.is_library(f"timm:{name}")
    with pytest.raises(RecipeError):
        resolve(f"timm:{name}", "model")


@pytest.mark.parametrize(
    ("factory", "arguments", "is_trusted"),
    [
        ("timm:resnet18", {"num_classes": 3, "pretrained": True}, True),
        ("torchvision:resnet18?num_classes=3", {}, True),
        ("timm:resnet18", {"checkpoint_path": "evil.pth"}, False),
        ("timm:resnet18?checkpoint_path=evil.pth", {}, False),
        ("timm:resnet18", {"pretrained_cfg": {"file": "evil.pth"}}, False),
    ],
)
def test_what_a_recipe_may_name(factory: str, arguments: dict[str, Any], is_trusted: bool) -> None:
    found = recipe.parse({"model": {"factory": factory, "arguments": arguments}})
    assert trust.references(found) == ({} if is_trusted else {"model": factory})
