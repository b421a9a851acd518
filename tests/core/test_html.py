"""The page on rows made by hand, read back with a parser, and in a browser where there is one."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchshrink import html, report, samples
from torchshrink.html import layer_bars, plots, predictions, svg

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
EVIL = "<script>alert(1)</script>&\"'{{ 7*7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Fails on tags that are not closed in their order, and collects what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def row(variant: str, file: str, size: float, ms: float, loss: float, **values: Any) -> dict[str, Any]:
    format_, precision = file.split("-")[:2]
    parity = {"reference": None if format_ == "torch" else variant, "max_abs": 1e-3, "mean_abs": 1e-4, "passed": True}
    defaults = {
        "name": f"{variant}/{file}",
        "variant": variant,
        "format": format_,
        "precision": precision,
        "path": f"files/{variant}-{file}",
        "bytes": round(size * 1e6),
        "sparsity": 0.5,
        "loss": loss,
        "metrics": {"dice": 0.9, "iou": 0.8},
        "latency_ms": {"median": ms, "p90": 2 * ms, "threads": 1, "runs": 50},
        "peak_rss_mb": 50 + ms,
        "parity": parity | {"lsb_match": 0.995 if precision == "int8" else None},
        "islands": [],
    }
    return defaults | values


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        row("dense", "torch-fp32", 2.0, 20, 0.13, peak_rss_mb=270.0),
        row("dense", "tflite-fp32", 1.9, 12, 0.13),
        row("dense", "tflite-int8", 0.5, 3, 0.132),
        row("pruned", "tflite-fp32-sparse", 0.51, 12, 0.12),
        row("pruned", "tflite-int8-sparse", 0.25, 3.5, 0.135, islands=["Sin x2"]),
        row("pruned", "onnx-int8", 0.52, 5, 0.136),
    ]


@pytest.fixture
def content(rows: list[dict[str, Any]]) -> dict[str, Any]:
    task = {"name": "cells", "train": 8, "validation": 2, "test": 5, "input": [1, 1, 24, 32], "seed": 4, "threads": 1}
    failed = [{"name": "dense/onnx-fp16", "path": None, "reason": "differs by 0.5", "parity": None}]
    task |= {"class_names": ["nucleus"], "normalization": {"mean": [1.0], "std": [2.0]}}
    layers = {"dense": [layer("conv", 40, 40, 2_500_000)], "pruned": [layer("conv", 40, 9, 2_500_000)]}
    return {"task": task, "environment": report.environment(), "rows": rows, "layers": layers, "failed": failed}


def layer(name: str, params: int, nonzero: int, macs: int) -> dict[str, Any]:
    return {"name": name, "params": params, "nonzero": nonzero, "macs": macs}


def keep(out: Path, rows: list[dict[str, Any]], classes: int, *size: int, count: int = 5) -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((count, classes, *size)) > 0.5
    samples.keep_data(out, generator.random((count, 1, *size)), truth.astype(np.float32))
    for item in rows:
        kind = np.int8 if item["precision"] == "int8" else np.float32
        weights = (40 * generator.standard_normal((64, 8))).astype(kind)
        samples.keep(out, item["name"], generator.random((count, classes, *size)), [weights])


def section(text: str, name: str) -> str:
    return text[text.index(f'<section id="{name}">') :].partition("</section>")[0]


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
            assert value.startswith("#") or (tag == "img" and value.startswith("data:image/png;base64,")), (tag, value)
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert len(page.attributes("script")) == 1
    assert len(page.ids) == len(set(page.ids))
    links = {(attributes.get("href") or "")[1:] for tag, attributes in page.tags if tag in ("a", "use")}
    assert links <= set(page.ids)
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
    headings = report.table(content["rows"])[0]
    assert page.texts["button"] == list(headings)
    assert [attributes["type"] for attributes in page.attributes("button")] == ["button"] * len(headings)
    values = [float(item["data-value"] or "") for item in page.attributes("td")]
    assert values[:9] == [2e6, 0.95, 0.5, 0.13, 0.9, 20.0, 1.0, 270.0, 1e-3]
    assert len(values) == 9 * len(content["rows"])
    assert "<li>pruned/tflite-int8-sparse: Sin x2</li>" in section(text, "verification")  # of a report without times
    content["rows"][4]["float_time"] = 0.256
    assert ": Sin x2 (26% of the time in float)</li>" in section(html.page(content, tmp_path), "verification")
    assert "<strong>dense/onnx-fp16</strong>: differs by 0.5" in section(text, "verification")
    assert report.verdict(content["rows"]) in text
    for known in (report.environment()["processor"], "seed 4", "torch 2.", "Command"):
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


@pytest.mark.parametrize("name", ["a<b", "x</text><script>alert(1)</script>", "$\\alpha$", 'q" onload="x', "a--b-->c"])
def test_names_in_pictures_are_text(name: str) -> None:
    mask = {"truth": np.ones((1, 8), bool), name: np.zeros((1, 8), bool)}
    picture = svg.embed(lambda path: predictions._draw(np.zeros((1, 8), np.float32), mask, path), "p", name)
    page = Page(str(picture))
    assert name in page.texts["text"]
    assert page.attributes("svg")[0]["aria-label"] == name
    assert not page.attributes("script")
    assert "<!--" not in picture
    assert "<metadata" not in picture


def test_pictures_follow_the_page() -> None:
    found = plots.pareto([row("dense", "tflite-fp32", 1.5, 10, 0.1005), row("p", "onnx-int8", 0.5, 5, 0.1006)])
    assert [plot.title for plot in found] == ["Size and loss", "Latency and loss", "RAM and loss"]
    text = str(found[0].svg)
    assert "currentColor" in text
    assert "#010203" not in text
    assert "var(--line)" in text
    assert "font-family" not in text
    assert "<title>dense/tflite-fp32: 1.5 MB, loss 0.1005</title>" in text
    assert found[0].notes == ["p/onnx-int8: 0.5 MB, loss 0.1006"]  # a loss that is lower by 0.1 % is noise
    assert "0.1005" in text  # digits of texts are not cut, those of coordinates are
    assert not re.search(r' d="[^"]*\.\d{3}', text)
    assert Page(text).attributes("svg")[0]["width"]
    ids = [set(Page(str(plot.svg)).ids) for plot in found]
    assert not ids[0] & ids[1]


def test_ladder_only_for_a_sweep(content: dict[str, Any], tmp_path: Path) -> None:
    assert '<section id="ladder">' not in html.page(content, tmp_path)
    content["rows"] += [row("sparse-50", "tflite-fp32", 1, 5, 0.14), row("channels-25", "tflite-fp32", 1, 5, 0.14)]
    text = html.page(content, tmp_path)
    Page(text)
    assert "weights set to zero, or channels" in section(text, "ladder")


def test_images_beside_the_truth(content: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    keep(tmp_path, rows, 2, 24, 32)
    found = predictions.predictions(rows, tmp_path, content["task"])
    assert found is not None
    chosen = ["dense/torch-fp32", "dense/tflite-int8", "pruned/tflite-int8-sparse"]
    assert list(found.columns) == ["input", "truth", *chosen]
    assert [len(line) for line in found.pictures] == [5] * samples.COUNT
    titles = ["nucleus", "class 1", "found but not there", "there but not found", "another class"]
    assert [title for _, title in found.legend] == titles
    page = Page(section(html.page(content, tmp_path), "predictions") + "</section>")
    assert len(page.attributes("img")) == 5 * samples.COUNT


def test_signals_beside_the_truth(content: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    keep(tmp_path, rows, 3, 64)
    found = predictions.predictions(rows, tmp_path, content["task"])
    assert found is not None
    assert len(found.signals) == samples.COUNT
    assert not found.pictures
    for name in ("truth", "dense/torch-fp32", "dense/tflite-int8", "pruned/tflite-int8-sparse"):
        assert name in Page(str(found.signals[0])).texts["text"]


def test_runs_without_usable_samples(content: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert predictions.predictions(rows, tmp_path, content["task"]) is None
    keep(tmp_path, rows, 1, 24, 32)
    for item in rows:
        samples.keep(tmp_path, item["name"], np.zeros((5, 7)), [])  # no masks: a classifier's outputs
    assert predictions.predictions(rows, tmp_path, content["task"]) is None
    (tmp_path / "samples" / "data.npz").write_bytes(b"PK damaged")
    text = html.page(content, tmp_path)
    Page(text)
    assert '<section id="predictions">' not in text
    assert '<section id="weights">' not in text


def test_paint() -> None:
    truth = np.array([[[1, 1, 0, 0, 0]], [[0, 0, 1, 0, 0]]], bool)
    mask = np.array([[[1, 0, 1, 1, 0]], [[0, 0, 0, 0, 0]]], bool)
    assert predictions.paint(mask, truth).tolist() == [[4, 2, 3, 1, 0]]  # class 0, missed, confused, extra, ground
    assert predictions.paint(truth, truth).tolist() == [[4, 4, 5, 0, 0]]
    assert predictions.wrong(mask, truth) == 0.6
    assert predictions.wrong(truth, truth) == 0.0


def test_spans() -> None:
    assert predictions.spans(np.array([1, 1, 0, 1, 0, 1], bool)) == [(0, 2), (3, 1), (5, 1)]
    assert predictions.spans(np.zeros(3, bool)) == []


def test_samples_are_thinned_and_come_back(tmp_path: Path) -> None:
    values = np.arange(6 * 320 * 320, dtype=np.float32).reshape(6, 1, 320, 320) / 1e5
    samples.keep_data(tmp_path, values, values > 1)
    inputs, truths = samples.data(tmp_path) or (values, values)
    np.testing.assert_array_equal(inputs, values[:4, :, ::2, ::2].astype(np.float16).astype(np.float32))
    assert truths.dtype == np.float32
    assert set(np.unique(truths)) == {0.0, 1.0}
    samples.keep(tmp_path, "a/b-int8", np.full((1, 1, 3), math.inf), [np.array([[-127, 0], [0, 127]], np.int8)])
    spread = samples.weights(tmp_path, "a/b-int8")
    assert spread is not None
    assert spread.is_int8
    assert {int(index) - 128: int(spread.counts[index]) for index in np.flatnonzero(spread.counts)} == {
        -127: 1, 0: 2, 127: 1,
    }  # fmt: skip
    assert samples.outputs(tmp_path, "a/b-int8") is not None
    assert samples.outputs(tmp_path, "a/none") is None
    assert samples.weights(tmp_path, "a/none") is None


def test_histograms(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    keep(tmp_path, rows, 1, 24, 32)
    titles = [plot.title for plot in plots.histograms(rows, tmp_path)]
    assert titles == [
        "dense/torch-fp32, values",
        "dense/tflite-int8, int8 codes",
        "pruned/tflite-int8-sparse, int8 codes",
    ]
    spread = samples.histogram([np.array([[-2.0, 0.0, 2.0]], np.float32)])
    assert spread is not None
    assert (spread.counts[0], spread.counts[50], spread.counts[100], spread.counts.sum()) == (1, 1, 1, 3)
    assert samples.histogram([]) is None


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
        "dense": {"params": 20, "nonzero": 10, "macs": 30},
        "slim": {"params": 1, "nonzero": 1, "macs": 2},
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


@pytest.mark.parametrize("values", [[0.2519, 1.9], [11.6, 20.6], [50, 272], [3.0, 3.1], [5], []])
def test_ticks_are_round_and_few(values: list[float]) -> None:
    found = plots.ticks(values)
    assert 1 <= len(found) <= 8
    assert found == sorted(found)


def test_no_rows(content: dict[str, Any], tmp_path: Path) -> None:
    text = html.page(content | {"rows": []}, tmp_path)
    Page(text)
    assert "No file was verified." in text


def test_losses_that_are_not_numbers(content: dict[str, Any], tmp_path: Path) -> None:
    for item in content["rows"][1:]:
        item["loss"] = math.nan
    Page(html.page(content, tmp_path))


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
PHONE = """
<!DOCTYPE html><html><body><iframe src="page.html" width="360" height="800" style="border: 0"></iframe><script>
window.addEventListener("message", (event) => { document.title = event.data; });
</script></body></html>
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


def open_page(text: str, folder: Path) -> Any:
    """Open a page as wide as a phone and return what its probe says; ``None`` when it says nothing."""
    (folder / "page.html").write_text(text)
    (folder / "phone.html").write_text(PHONE)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={folder}/profile", "--dump-dom"]
    command.append((folder / "phone.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    titles = Page(done.stdout).texts.get("title")
    return json.loads(titles[0]) if titles else None
