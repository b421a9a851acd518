"""Every example in a docstring runs."""

import doctest
import importlib
from pathlib import Path

import pytest

import torchshrink

ROOT = Path(torchshrink.__file__).parent


def with_examples() -> list[str]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if ">>>" in path.read_text():
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(["torchshrink", *(part for part in parts if part != "__init__")]))
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert {"torchshrink.model.unet", "torchshrink.losses", "torchshrink.prune.weights"} <= set(with_examples())
