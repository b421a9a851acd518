"""The page on rows made by hand, read back with a parser, and in a browser where there is one."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import CHROMIUM, EVIL, Page, keep, make_content, make_rows, open_page, row, section

from torchshrink.bench.environment import environment
from torchshrink.report import html, samples
from torchshrink.report.columns import table
from torchshrink.report.text import verdict


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return make_rows()


@pytest.fixture
def content(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return make_content(rows)


def test_page_is_whole_and_alone(content: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    keep(tmp_path, rows, 1, 24, 32)
    text = html.page(content, tmp_path)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "mathdefault" not in text  # matplotlib's powers of ten, which are markup
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not page.attributes("link")
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            value = attributes.get(name) or "#"
            is_file = tag == "a" and value in {item["path"] for item in rows}  # beside the page
            is_picture = tag == "img" and value.startswith("data:image/png;base64,")
            assert value.startswith("#") or is_file or is_picture, (tag, value)
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert len(page.attributes("script")) == 1
    assert len(page.ids) == len(set(page.ids))
    links = {attributes.get("href") or "" for tag, attributes in page.tags if tag in ("a", "use")}
    assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)
    policy = next(item for item in page.attributes("meta") if "http-equiv" in item)["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert all(item["alt"] for item in page.attributes("img"))
    assert all(item["aria-label"] for item in page.attributes("svg"))


def test_every_row_is_in_the_table_and_verification(content: dict[str, Any], tmp_path: Path) -> None:
    text = html.page(content, tmp_path)
    for item in content["rows"]:
        assert f'<th scope="row">{item["name"]}</th>' in section(text, "files")
        assert f'<th scope="row">{item["name"]}</th>' in section(text, "verification")
    page = Page(section(text, "files") + "</section>")
    headings = table(content["rows"])[0]
    assert page.texts["button"] == list(headings)
    assert [attributes["type"] for attributes in page.attributes("button")] == ["button"] * len(headings)
    values = [float(item["data-value"] or "") for item in page.attributes("td")]
    assert values[:9] == [2e6, 0.95, 0.5, 0.13, 0.9, 20.0, 1.0, 270.0, 1e-3]
    assert len(values) == 9 * len(content["rows"])
    assert "<li>pruned/tflite-int8-sparse: Sin x2</li>" in section(text, "verification")  # of a report without times
    content["rows"][4]["float_time"] = 0.256
    assert ": Sin x2 (26% of the time in float)</li>" in section(html.page(content, tmp_path), "verification")
    assert "<strong>dense/onnx-fp16</strong>: differs by 0.5" in section(text, "verification")
    assert verdict(content) in text
    for known in (environment()["processor"], "seed 4", "torch 2.", "Command"):
        assert known in section(text, "conditions")


def test_recommended_files(content: dict[str, Any], tmp_path: Path) -> None:
    page = Page(section(html.page(content, tmp_path), "recommended") + "</section>")
    assert page.texts["h3"] == ["Smallest", "Fastest", "Least RAM", "Lowest loss"]
    files = [text for text in page.texts["p"] if "/" in text and text.count("/") == 1 and " " not in text]
    small, fast, best = "pruned/tflite-int8-sparse", "dense/tflite-int8", "pruned/tflite-fp32-sparse"
    assert [name for name in files if not name.startswith("files/")] == [
        small,
        fast,
        small,
        best,
    ]  # RAM: 53.5 and 53 MB
    assert "0.250 MB" in page.texts["dd"]
    assert "0.1350 (+0.0050)" in page.texts["dd"]


def test_names_of_users_are_escaped(content: dict[str, Any], tmp_path: Path) -> None:
    content["task"] |= {"name": EVIL, "class_names": [EVIL, "$\\frac{$", "_hidden"]}
    content["failed"][0] |= {"name": EVIL, "reason": EVIL}
    content["environment"]["command"] = EVIL
    for item in content["rows"]:
        item |= {"variant": EVIL, "name": f"{EVIL}/{item['name']}"}
    content["rows"][-1]["islands"] = [EVIL]
    (tmp_path / "recipe.json").write_text('{"data": "</pre><script>alert(1)</script>"}')
    text = html.page(content, tmp_path)
    page = Page(text)
    assert len(page.attributes("script")) == 1
    assert "<script>alert" not in text
    assert "alert(1)" not in "".join(page.texts["script"])
    assert EVIL in page.texts["h1"]
    assert "7*7" in text


def test_ladder_only_for_a_sweep(content: dict[str, Any], tmp_path: Path) -> None:
    assert '<section id="ladder">' not in html.page(content, tmp_path)
    content["rows"] += [row("sparse-50", "tflite-fp32", 1, 5, 0.14), row("channels-25", "tflite-fp32", 1, 5, 0.14)]
    text = html.page(content, tmp_path)
    Page(text)
    assert "weights set to zero, or channels" in section(text, "ladder")


def test_no_rows(content: dict[str, Any], tmp_path: Path) -> None:
    text = html.page(content | {"rows": []}, tmp_path)
    Page(text)
    assert "No file was verified." in text


def test_losses_that_are_not_numbers(content: dict[str, Any], tmp_path: Path) -> None:
    for item in content["rows"][1:]:
        item["loss"] = math.nan
    text = html.page(content, tmp_path)
    Page(text)
    assert all(item["name"] in text for item in content["rows"])


def test_size_of_a_realistic_page(content: dict[str, Any], tmp_path: Path) -> None:
    """The ladder of 14 variants with 6 files each, and noise of 3 channels, which no PNG makes small."""
    names = ["dense", *(f"sparse-{amount}" for amount in range(10, 100, 9)), "channels-25", "channels-50"]
    files = ("tflite-fp32", "tflite-fp16", "tflite-int8", "onnx-fp32", "onnx-fp16", "onnx-int8")
    content["rows"] = content["rows"][:1] + [row(name, file, 1, 1, 0.1) for name in names for file in files]
    keep(tmp_path, content["rows"], 1, 160, 160)
    generator = np.random.default_rng(0)
    samples.keep_data(tmp_path, generator.random((4, 3, 160, 160)), generator.random((4, 1, 160, 160)) > 0.5)
    assert len(html.page(content, tmp_path).encode()) < 3_000_000


PROBE = """
<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("load", () => {
  const states = [];
  const press = (number) => {
    document.querySelectorAll("#files thead button")[number].click();
    const names = [...document.querySelectorAll("#files tbody th")].map((cell) => cell.textContent);
    const headings = [...document.querySelectorAll("#files thead th")];
    states.push({names, sorts: headings.map((cell) => cell.getAttribute("aria-sort"))});
  };
  press(4); press(4); press(0); press(6);  // loss, loss, file, ms
  const root = document.documentElement;
  parent.postMessage(JSON.stringify({states, errors, width: root.clientWidth, needed: root.scrollWidth}), "*");
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_in_a_browser(content: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    keep(tmp_path, rows, 1, 24, 32)
    text = html.page(content, tmp_path)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    probed = text.replace("<body>", f"<body>{PROBE}")
    assert open_page(probed, tmp_path) is None  # the page runs no script but its own
    found = open_page(probed.replace(policy[0], ""), tmp_path)
    assert found is not None
    assert found["errors"] == []
    assert found["needed"] <= found["width"] <= 360  # nothing sticks out of a phone's screen
    by_loss, back, by_name, by_time = (state["names"] for state in found["states"])
    assert by_loss == names_by(rows, lambda item: item["loss"])
    assert back == names_by(rows, lambda item: -item["loss"])
    assert by_name == sorted(item["name"] for item in rows)
    assert by_time == names_by(rows, lambda item: item["latency_ms"]["median"], by_name)
    sorts = [{index: sort for index, sort in enumerate(state["sorts"]) if sort} for state in found["states"]]
    assert sorts == [{4: "ascending"}, {4: "descending"}, {0: "ascending"}, {6: "ascending"}]


def names_by(rows: list[dict[str, Any]], key: Any, order: list[str] | None = None) -> list[str]:
    first = sorted(rows, key=lambda item: order.index(item["name"])) if order else rows
    return [item["name"] for item in sorted(first, key=key)]


def test_which_way_is_better_in_the_plots(content: dict[str, Any], tmp_path: Path) -> None:
    assert "Left and low is better." in html.page(content, tmp_path)
    content["task"] |= {"decides": "dice", "metrics": {"dice": {"higher_is_better": True, "unit": ""}}, "budget": None}
    assert "Left and high is better." in html.page(content, tmp_path)
