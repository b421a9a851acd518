"""The pictures of the page: predictions, histograms of weights, how they fit a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page, keep, make_content, make_rows, row, said, section

from torchshrink.report import html, samples
from torchshrink.report.html import models, plots, predictions
from torchshrink.report.html.figure import Figure


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return make_rows()


@pytest.fixture
def content(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return make_content(rows)


@pytest.mark.parametrize("name", ["a<b", "x</text><script>alert(1)</script>", "<a href='http://x'>y</a>", "&lt;b&gt;"])
def test_names_in_figures_are_text(name: str, tmp_path: Path) -> None:
    found = plots.pareto([row(name, "tflite-fp32", 1.5, 10, 0.1)])[0]
    assert said(found.spec)[0].startswith(f"{name}/tflite-fp32: 1.5 MB")
    assert not [text for trace in found.data for text in trace.get("hovertext", []) if "<" in text]


def test_figures_say_what_they_show() -> None:
    found = plots.pareto([row("dense", "tflite-fp32", 1.5, 10, 0.1005), row("p", "onnx-int8", 0.5, 5, 0.1006)])
    assert [plot.title for plot in found] == ["Size and loss", "Latency and loss", "RAM and loss"]
    assert "dense/tflite-fp32: 1.5 MB, loss 0.1005" in said(found[0].spec)
    assert found[0].notes == ["p/onnx-int8: 0.5 MB, loss 0.1006"]  # a loss that is lower by 0.1 % is noise


def test_numbers_of_figures_are_json() -> None:
    data = [{"x": np.array([1.23456789, np.nan]), "y": (np.float32(0.5), np.int64(3), float("inf")), "name": "a"}]
    found = Figure("", "", data).spec["data"]
    assert found == [{"x": [1.23457, None], "y": [0.5, 3, None], "name": "a"}]


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
    text = next(trace for trace in found.signals[0].data if trace.get("mode") == "text")
    assert text["text"] == ["truth", "dense/torch-fp32", "dense/tflite-int8", "pruned/tflite-int8-sparse"]


def test_bands_of_a_signal() -> None:
    masks = {"truth": np.array([[1, 1, 0, 0, 1]], bool), "file": np.array([[0, 1, 1, 0, 1]], bool)}
    bands = {each["name"]: (each["base"], each["x"]) for each in predictions._bands(masks, ["beat"])}
    assert bands == {
        "beat": ((0, 4, 1, 4), (2, 1, 1, 1)),  # of the truth, then of the file
        "found but not there": ((2,), (1,)),
        "there but not found": ((0,), (1,)),
    }


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
    titles = [plot.title for plot in models.histograms(rows, tmp_path)]
    assert titles == [
        "dense/torch-fp32, values",
        "dense/tflite-int8, int8 codes",
        "pruned/tflite-int8-sparse, int8 codes",
    ]
    spread = samples.histogram([np.array([[-2.0, 0.0, 2.0]], np.float32)])
    assert spread is not None
    assert (spread.counts[0], spread.counts[50], spread.counts[100], spread.counts.sum()) == (1, 1, 1, 3)
    assert samples.histogram([]) is None
