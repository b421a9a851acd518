"""The figure of the page that shows each layer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from html_page import EVIL, Page, layer, make_content, make_rows, section

from torchshrink.report import html
from torchshrink.report.html import layer_bars


@pytest.fixture
def content() -> dict[str, Any]:
    return make_content(make_rows())


def test_layers_say_their_figures(content: dict[str, Any], tmp_path: Path) -> None:
    text = html.page(content, tmp_path)
    assert '<a href="#layers">Layers</a>' in text
    found = section(text, "layers")
    assert "<title>conv, dense: 40 parameters, 2,500,000 MACs</title>" in found
    assert "<title>conv, pruned: 40 parameters (31 of them zero), 2,500,000 MACs</title>" in found
    assert "not shown" not in found
    page = Page(found + "</section>")
    assert page.attributes("svg")[0]["aria-label"] == "Parameters and MACs of each layer in dense, pruned"
    assert {"conv", "parameters", "multiply-accumulates"} <= set(page.texts["text"])
    assert {"dense", "pruned"} <= set(page.texts["span"])


def bar_widths(picture: str) -> list[float]:
    """Return the widths of the bars in the order of drawing, in points."""
    paths = re.findall(r'<title>[^<]*</title><path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) ', picture)
    return [abs(float(right) - float(left)) for left, right in paths]


def test_lengths_of_bars() -> None:
    found = layer_bars.layer_bars({"dense": [layer("a", 100, 25, 60), layer("b", 50, 50, 30)]})
    assert found is not None
    kept, zeros, half, macs, half_macs = bar_widths(str(found.svg))
    assert zeros == pytest.approx(3 * kept, rel=0.01)
    assert half == pytest.approx(2 * kept, rel=0.01)
    assert half_macs == pytest.approx(macs / 2, rel=0.01)
    assert str(found.svg).count("opacity: 0.35") == 1  # zeros only


def test_layers_of_many_variants(content: dict[str, Any], tmp_path: Path) -> None:
    nonzero = {"dense": 90, "a": 50, "b": 80, "c": 10, "d": 30, "empty": None}
    content["layers"] = {name: [layer("x", 90, each, 1)] if each else [] for name, each in nonzero.items()}
    found = layer_bars.layer_bars(content["layers"])
    assert found is not None
    assert [name for _, name in found.legend] == ["dense", "a", "c", "d"]
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
    assert "<title>10 smaller layers, dense: 20 parameters (10 of them zero)" in found.svg


def test_names_of_layers_are_text() -> None:
    long = "module." * 20 + "conv"
    found = layer_bars.layer_bars({EVIL: [layer(EVIL, 2, 2, 2), layer("$\\frac{$", 0, 0, 0), layer(long, 1, 1, 1)]})
    assert found is not None
    page = Page(str(found.svg))
    assert not page.attributes("script")
    shown = page.texts["text"]
    assert "$\\frac{$" in shown
    assert max(len(text) for text in shown) == 40
    assert next(text for text in shown if text.endswith("module.conv")).startswith("\u2026")


@pytest.mark.parametrize("layers", [None, {}, {"dense": []}])
def test_reports_without_layers(content: dict[str, Any], tmp_path: Path, layers: Any) -> None:
    content.pop("layers")
    text = html.page(content if layers is None else content | {"layers": layers}, tmp_path)
    Page(text)
    assert "#layers" not in text
    assert '<section id="layers">' not in text
