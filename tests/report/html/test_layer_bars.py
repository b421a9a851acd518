"""The figure of the page that shows each layer."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import pytest
from html_page import EVIL, Page, layer, make_content, make_rows, said, section

from torchshrink.report import html
from torchshrink.report.html import layer_bars


@pytest.fixture
def content() -> dict[str, Any]:
    return make_content(make_rows())


def test_layers_say_their_figures(content: dict[str, Any], tmp_path: Path) -> None:
    text = html.page(content, tmp_path)
    assert '<a href="#layers">Layers</a>' in text
    found = section(text, "layers")
    assert "not shown" not in found
    figures = Page(found + "</section>").figures
    assert list(figures) == [
        "Parameters of each layer in dense, pruned",
        "Multiply-accumulates of each layer in dense, pruned",
    ]
    texts = said(next(iter(figures.values())))
    assert "conv, dense: 40 parameters, 2,500,000 MACs" in texts
    assert "conv, pruned: 40 parameters (31 of them zero), 2,500,000 MACs" in texts


def test_lengths_of_bars() -> None:
    found = layer_bars.layer_bars({"dense": [layer("a", 100, 25, 60), layer("b", 50, 50, 30)]})
    assert found is not None
    _, kept, zeros = found.figures[0].data
    assert (kept["x"], zeros["x"], zeros["base"]) == ([25, 50], [75, 0], [25, 50])
    assert "opacity" not in kept
    assert zeros["opacity"] == 0.35
    _, macs = found.figures[1].data
    assert macs["x"] == [60, 30]


def test_layers_of_many_variants(content: dict[str, Any], tmp_path: Path) -> None:
    nonzero = {"dense": 90, "a": 50, "b": 80, "c": 10, "d": 30, "empty": None}
    content["layers"] = {name: [layer("x", 90, each, 1)] if each else [] for name, each in nonzero.items()}
    found = layer_bars.layer_bars(content["layers"])
    assert found is not None
    assert [trace["name"] for trace in found.figures[1].data[1:]] == ["dense", "a", "c", "d"]
    assert found.left_out == ["b"]
    assert "not shown: b.</p>" in section(html.page(content, tmp_path), "layers")


def test_small_layers_of_a_large_model_are_added_up() -> None:
    small = [layer(f"small.{number}", 2, 1, 3) for number in range(10)]
    large = [layer(f"large.{number}", 100, 100, 1) for number in range(layer_bars.MOST_LAYERS - 1)]
    slim = [layer("small.0", 1, 1, 2), layer("large.0", 50, 50, 1)]
    merged = layer_bars._merged({"dense": small + large, "slim": slim})
    assert list(merged) == [item["name"] for item in large] + ["10 smaller layers"]
    assert merged["10 smaller layers"] == {
        "dense": layer("10 smaller layers", 20, 10, 30),
        "slim": layer("10 smaller layers", 1, 1, 2),
    }
    assert list(merged["large.1"]) == ["dense"]
    found = layer_bars.layer_bars({"dense": small + large, "slim": slim})
    assert found is not None
    assert any(
        text.startswith("10 smaller layers, dense: 20 parameters (10 of") for text in said(found.figures[0].spec)
    )


def test_names_of_layers_are_text() -> None:
    long = "module." * 20 + "conv"
    found = layer_bars.layer_bars({EVIL: [layer(EVIL, 2, 2, 2), layer("$\\frac{$", 0, 0, 0), layer(long, 1, 1, 1)]})
    assert found is not None
    evil, formula, end = found.figures[0].data[0]["text"]
    assert "<" not in evil
    assert unescape(evil) == EVIL
    assert formula == "$\\frac{$"
    assert len(end) == 44
    assert end.startswith("\u2026")
    assert end.endswith("module.conv")


@pytest.mark.parametrize("layers", [None, {}, {"dense": []}])
def test_reports_without_layers(content: dict[str, Any], tmp_path: Path, layers: Any) -> None:
    content.pop("layers")
    text = html.page(content if layers is None else content | {"layers": layers}, tmp_path)
    Page(text)
    assert "#layers" not in text
    assert '<section id="layers">' not in text
