"""The page on rows made by hand, read back with a parser, and in a browser where there is one."""

from __future__ import annotations

import hashlib
import json
import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import (
    CHROMIUM,
    EVIL,
    Page,
    keep,
    make_content,
    make_rows,
    open_page,
    row,
    said,
    search,
    section,
    trial,
    without_scripts,
)

from torchshrink.bench.environment import environment
from torchshrink.report import html, samples
from torchshrink.report.columns import table
from torchshrink.report.text import verdict

SCRIPTS = 3  # plotly.js, what hands it the figures, and what sorts tables


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
    own = without_scripts(text)
    assert "http://" not in own
    assert set(re.findall(r"https://[^\"]*", own)) == {"https://netron.app"}  # a link, which nothing follows by itself
    assert "@import" not in own
    assert not page.attributes("link")
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            value = attributes.get(name) or "#"
            is_file = tag == "a" and value in {item["path"] for item in rows}  # beside the page
            is_picture = tag == "img" and value.startswith("data:image/png;base64,")
            is_link = tag == "a" and value == "https://netron.app"
            assert value.startswith("#") or is_file or is_picture or is_link, (tag, value)
    assert "url(" not in own
    assert len(page.attributes("script")) == SCRIPTS
    assert len(page.ids) == len(set(page.ids))
    links = {attributes.get("href") or "" for tag, attributes in page.tags if tag in ("a", "use")}
    assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)
    policy = next(item for item in page.attributes("meta") if "http-equiv" in item)["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert all(item["alt"] for item in page.attributes("img"))
    assert len(page.figures) >= 8
    assert all(page.figures)


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
    assert len(page.attributes("script")) == SCRIPTS
    assert "<script>alert" not in text
    assert "alert(1)" not in "".join(page.texts["script"])
    assert not [each for figure in page.figures.values() for each in strings(figure["data"]) if "<script" in each]
    assert EVIL in page.texts["h1"]
    assert "7*7" in text


def strings(value: Any) -> list[str]:
    """Return what plotly.js could take for markup: all texts but names, which only the page's buttons show."""
    if isinstance(value, dict):
        return [text for key, each in value.items() if key != "name" for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def test_ladder_only_for_a_sweep(content: dict[str, Any], tmp_path: Path) -> None:
    assert '<section id="ladder">' not in html.page(content, tmp_path)
    content["rows"] += [row("sparse-50", "tflite-fp32", 1, 5, 0.14), row("channels-25", "tflite-fp32", 1, 5, 0.14)]
    text = html.page(content, tmp_path)
    Page(text)
    ladder = Page(section(text, "ladder") + "</section>").figures
    assert len(ladder) == 4
    assert [trace["name"] for trace in next(iter(ladder.values()))["data"]] == [
        "weights: TFLite fp32", "channels: TFLite fp32",
    ]  # fmt: skip


def test_no_rows(content: dict[str, Any], tmp_path: Path) -> None:
    text = html.page(content | {"rows": []}, tmp_path)
    Page(text)
    assert "No file was verified." in text


def test_losses_that_are_not_numbers(content: dict[str, Any], tmp_path: Path) -> None:
    for item in content["rows"][1:]:
        item["loss"] = math.nan
    content["rows"][2]["loss"] = math.inf
    text = html.page(content, tmp_path)
    assert Page(text).figures
    assert not re.search(r"\b(NaN|Infinity)\b", without_scripts(text))  # which JSON does not know
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
const errors = [], states = [];
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("load", () => {
  const press = (number) => {
    document.querySelectorAll("#files thead button")[number].click();
    const names = [...document.querySelectorAll("#files tbody th")].map((cell) => cell.textContent);
    const headings = [...document.querySelectorAll("#files thead th")];
    states.push({names, sorts: headings.map((cell) => cell.getAttribute("aria-sort"))});
  };
  press(4); press(4); press(0); press(6);  // loss, loss, file, ms
  setTimeout(look, 1000);  // plotly.js draws in steps
});
const look = async () => {
  const figures = [...document.querySelectorAll(".figure")].filter((place) => !place.closest("details:not([open])"));
  const empty = figures.filter((place) => !place.querySelector(".main-svg .trace")).map((place) => place.ariaLabel);
  const shown = () => document.querySelector("#tradeoffs .figure").querySelectorAll(".scatterlayer .point").length;
  const before = shown();
  const switches = [...document.querySelector("#tradeoffs .switches").children];
  switches.find((button) => button.textContent.includes("TFLite int8")).click();
  const facts = [...document.querySelectorAll(".facts dd")].map((item) => item.getBoundingClientRect().bottom);
  const keys = [...document.querySelectorAll(".figure .modebar-btn")].every((item) => item.tabIndex === 0);
  const found = typeof axe === "undefined" ? null : await axe.run();
  const serious = found?.violations.filter((each) => ["serious", "critical"].includes(each.impact));
  parent.postMessage(JSON.stringify({
    states, errors, figures: figures.length, empty, gone: before - shown(), facts, keys,
    serious: serious?.map((each) => `${each.id}: ${each.nodes[0].html}`),
    width: document.documentElement.clientWidth, needed: document.documentElement.scrollWidth,
  }), "*");
};
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
    axe_core_python = pytest.importorskip("axe_core_python")
    axe = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
    found = open_page(probed.replace(policy[0], "").replace("</body>", f"<script>{axe}</script></body>"), tmp_path)
    assert found is not None
    assert found["errors"] == []
    assert found["needed"] <= found["width"] <= 360  # nothing sticks out of a phone's screen
    assert found["figures"] >= 8
    assert found["empty"] == []
    assert found["gone"] == 2  # the files of one kind, whose button was pressed
    assert max(found["facts"]) <= 800  # metric, speed, size and RAM are on the first screen
    assert found["keys"]
    assert found["serious"] == []
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


def test_plotly_is_the_one_that_is_pinned() -> None:
    folder = Path(html.__file__).parent
    wanted, name = (folder / "plotly.sha256").read_text().split()
    content = (folder / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == wanted
    assert content.startswith(b"/*\nMIT License")  # its licence goes wherever it goes
    assert b"</script" not in content


def test_the_recommended_the_failed_and_the_front_are_marked(content: dict[str, Any], tmp_path: Path) -> None:
    content["failed"].append({"name": "x<y", "path": "files/x", "bytes": 700_000, "reason": "far off", "parity": None})
    page = Page(section(html.page(content, tmp_path), "tradeoffs") + "</section>")
    size, latency, ram, spread = page.figures.values()
    marked = {trace["name"]: trace for trace in size["data"]}
    assert {"front", "recommended", "to ship", "failed", "TFLite int8", "ONNX int8", "PyTorch fp32"} <= set(marked)
    assert marked["to ship"]["x"] == [0.25]
    assert marked["failed"]["x"] == [0.7]
    assert marked["failed"]["y"] == [0.136]  # as bad as the worst
    assert said({"data": [marked["failed"]]}) == ["x<y failed: far off"]
    assert marked["front"]["x"] == [0.25, 0.5, 0.51]
    assert size["layout"]["shapes"][0]["y0"] == 0.14
    assert "failed" not in {trace["name"] for trace in latency["data"] + ram["data"]}
    bars = [trace for trace in spread["data"] if trace.get("name") == "TFLite"]
    assert bars[0]["x"] == [3, 3.5, 12, 12]
    assert bars[0]["error_x"]["array"] == [3, 3.5, 12, 12]  # the 90th percentile is twice the median


def test_training_is_drawn_of_what_checkpoints_say(content: dict[str, Any], tmp_path: Path) -> None:
    assert "training" not in Page(html.page(content, tmp_path)).ids
    epochs = [
        {"train_loss": 0.5, "validation_loss": 0.6, "dice": 0.7},
        {"train_loss": 0.4, "validation_loss": math.nan},
    ]
    header = json.dumps({"__metadata__": {"torchshrink": json.dumps({"history": {"epochs": epochs}})}}).encode()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "dense.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "models" / "pruned.safetensors").write_bytes(b"\xff" * 20)
    content["task"] |= {"decides": "dice", "metrics": {"dice": {"higher_is_better": True, "unit": ""}}, "budget": None}
    page = Page(section(html.page(content, tmp_path), "training") + "</section>")
    losses, dice = page.figures.values()
    assert [(trace["name"], trace["y"]) for trace in losses["data"]] == [("dense", [0.5, 0.4]), ("dense", [0.6, None])]
    assert [trace["y"] for trace in dice["data"]] == [[0.7]]


def test_commands_that_look_inside(content: dict[str, Any], tmp_path: Path) -> None:
    assert "--overlay" not in without_scripts(html.page(content, tmp_path))  # no checkpoint
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "pruned-ptq.safetensors").touch()
    text = unescape(section(html.page(content, tmp_path), "look"))
    file = "files/pruned-tflite-int8-sparse"
    assert f"netron {file}" in text
    assert f"torchshrink inspect {file} --against models/pruned-ptq.safetensors --overlay noise.json" in text
    assert f"model-explorer {file} --node_data_paths=noise.json" in text


def test_a_search_of_400_trials_fits(content: dict[str, Any], tmp_path: Path) -> None:
    content["search"] = search(trials=[trial(number) for number in range(400)])
    assert len(html.page(content, tmp_path).encode()) < 3_000_000
