from __future__ import annotations

import pytest
from program import RECIPE, Run, call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole job on a tiny model: about a minute, shared by all tests."""
    folder = tmp_path_factory.mktemp("run")
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE)
    result = call("run", recipe, "--out", folder / "out")
    assert result.code == 0, result.stderr
    return Run(recipe, folder / "out", result)
