"""The script of loads: a few small ones, and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from script import load

script = load("limits")


def test_what_is_measured_is_a_command_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(sum(range(10)))\n")
    used = script.call(tmp_path, ["a.py"], is_script=True)
    assert used["seconds"] > 0
    assert used["peak_mb"] > 1
    with pytest.raises(RuntimeError, match=r"a\.py ended with 0"):
        script.call(tmp_path, ["a.py"], is_script=True, code=3)


def test_loads_are_what_they_say(tmp_path: Path) -> None:
    for name in ("images", "variants", "npz"):
        (tmp_path / name).mkdir()
    script.images(tmp_path / "images", 20)
    assert len(list((tmp_path / "images" / "data").rglob("*.png"))) == 20
    script.variants(tmp_path / "variants", 7)
    assert (tmp_path / "variants" / "recipe.yaml").read_text().count("from: dense") == 7
    script.arrays(tmp_path / "npz", 6)
    with np.load(tmp_path / "npz" / "data.npz") as content:
        shapes = {key: (content[key].shape, str(content[key].dtype)) for key in content.files}
    assert shapes["x_train"] == ((19, 1, 256, 256), "float32")
    assert shapes["y_test"] == ((2, 1, 256, 256), "uint8")


def test_the_page_says_how_much_a_larger_load_takes() -> None:
    figures = {
        "variants": {"100": {"seconds": 2.0, "peak_mb": 200.0}, "1000": {"seconds": 5.0, "peak_mb": 300.0}},
        "study": {"500": {"error": "it ended with 1"}},
    }
    page = script.page(figures)
    assert "| 1,000 variants | 5 (x2.5) | 300 (x1.5) |" in page
    assert "| 500 trials | not measured | |" in page
