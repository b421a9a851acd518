from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import RECIPE, Run, launch


@pytest.fixture(scope="session")
def finished(keep: Callable[..., Any]) -> Run:
    """The whole job on a tiny model: about a minute, shared by all tests."""

    def run(folder: Path) -> Run:
        recipe = folder / "tiny.yaml"
        recipe.write_text(RECIPE)
        result = launch("run", recipe, "--out", folder / "out")
        assert result.code == 0, result.stderr
        return Run(recipe, folder / "out", result)

    found: Run = keep("finished", run)
    return found
