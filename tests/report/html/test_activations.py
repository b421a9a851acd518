"""Activations in float and in int8: counted by hand, kept beside a file, and shown on the page."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import here
import numpy as np
import pytest
from html_page import EVIL, Page, make_content, make_rows, section

from torchshrink import bench, quantize
from torchshrink.errors import ConversionError
from torchshrink.pipeline import recipe
from torchshrink.pipeline import run as pipeline
from torchshrink.pipeline.artefacts import Artefact, Source
from torchshrink.report import activations, html, samples
from torchshrink.report.activations import Activation
from torchshrink.report.html.activations import best, percent

SCALE, ZERO = 0.5, -28  # codes -128 to 127 stand for -50 to 77.5


def spread(name: str = "relu", layer: str = "conv") -> Activation:
    floats = np.array([-50.2, -50.3, 0.0, 0.2, 3.0, 77.7, 90.0, 1e9, -1e9, np.nan])
    codes = activations.count_codes(np.array([-50.0, -50.0, 0.0, 0.0, 3.0, 77.5]), SCALE, ZERO)
    assert codes is not None
    return Activation(name, layer, SCALE, ZERO, activations.count_floats(floats, SCALE, ZERO), codes)


def test_values_are_counted_in_bins_of_4_codes() -> None:
    found = spread()
    assert found.limits == (-50.0, 77.5)
    assert len(found.edges) == len(found.floats) + 1 == len(found.int8) + 1 == 97
    assert found.edges[16] == -50.25  # from here on values round to the lowest code
    assert found.edges[80] == 77.75
    # -50.3 and -1e9 are below -50.25, the latter in the outermost bin; 0, 0.2 and 3 have codes -28, -28 and -22
    assert {int(i): int(found.floats[i]) for i in np.flatnonzero(found.floats)} == {
        0: 1, 15: 1, 16: 1, 16 + 100 // 4: 2, 16 + 106 // 4: 1, 79: 1, 80 + 6: 1, 95: 1,
    }  # fmt: skip
    assert {int(i) - 128: int(found.codes[i]) for i in np.flatnonzero(found.codes)} == {-128: 2, -28: 2, -22: 1, 127: 1}
    assert {int(i): int(found.int8[i]) for i in np.flatnonzero(found.int8)} == {16: 2, 41: 2, 42: 1, 79: 1}
    assert found.clipped == pytest.approx(4 / 9)
    assert found.used == 4


def test_values_off_the_grid_have_no_codes() -> None:
    assert activations.count_codes(np.array([0.0, 0.3]), SCALE, ZERO) is None
    assert activations.count_codes(np.array([0.0, 78.0]), SCALE, ZERO) is None  # code 128
    assert activations.count_codes(np.array([0.0, -50.5]), SCALE, ZERO) is None


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    samples.keep(tmp_path, "a/tflite-int8", np.zeros((1, 1, 3)), [], [spread(), spread("sigmoid", "")])
    first, second = samples.activations(tmp_path, "a/tflite-int8")
    assert (first.name, first.layer, first.scale, first.zero_point) == ("relu", "conv", SCALE, ZERO)
    assert (second.name, second.layer) == ("sigmoid", "")
    np.testing.assert_array_equal(first.floats, spread().floats)
    np.testing.assert_array_equal(first.codes, spread().codes)
    samples.keep(tmp_path, "b/tflite-int8", np.zeros((1, 1, 3)), [])
    assert samples.activations(tmp_path, "b/tflite-int8") == []
    assert samples.activations(tmp_path, "none") == []


def test_page_shows_the_best_int8_file_of_each_format(tmp_path: Path) -> None:
    rows = make_rows()  # dense: loss 0.13; int8 TFLite 0.132 and, smaller, 0.135; int8 ONNX 0.136
    assert [row["name"] for row in best(rows)] == ["pruned/tflite-int8-sparse", "pruned/onnx-int8"]
    rows[4]["loss"] = 0.141  # beyond the budget of 0.01
    assert [row["name"] for row in best(rows)] == ["dense/tflite-int8", "pruned/onnx-int8"]
    rows[5]["loss"] = 0.2
    assert best(rows)[1]["name"] == "pruned/onnx-int8"  # none is within it
    for row in best(rows):
        samples.keep(tmp_path, row["name"], np.zeros((1, 1, 3)), [], [spread(), spread("sigmoid", "head")])
    text = html.page(make_content(rows), tmp_path)
    whole = Page(text)
    assert len(whole.ids) == len(set(whole.ids))
    assert '<a href="#activations">' in text
    page = Page(section(text, "activations") + "</section>")
    assert page.texts["summary"] == ["dense/tflite-int8", "pruned/onnx-int8"]
    assert page.texts["h3"] == ["conv: relu", "head: sigmoid"] * 2
    assert page.texts["p"][1:] == ["44.44 % clipped, 4 of 256 codes used"] * 4
    labels = list(page.figures)
    assert labels[0] == "Histogram of conv: relu in float and in int8: 44.44 % clipped, 4 of 256 codes used"


def test_limits_are_drawn_where_the_range_ends(tmp_path: Path) -> None:
    rows = make_rows()
    samples.keep(tmp_path, rows[2]["name"], np.zeros((1, 1, 3)), [], [spread()])
    rows = [row for row in rows if row["name"] == rows[2]["name"] or row["precision"] != "int8"]
    page = Page(section(html.page(make_content(rows), tmp_path), "activations") + "</section>")
    (figure,) = page.figures.values()
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [-50, 77.5]
    in_float, in_int8 = (trace["y"] for trace in figure["data"])
    assert (sum(in_float), sum(in_int8)) == (9, 6)


def test_names_are_escaped_and_old_runs_have_no_section(tmp_path: Path) -> None:
    rows = make_rows()
    text = html.page(make_content(rows), tmp_path)
    assert "#activations" not in text
    assert '<section id="activations">' not in text
    for row in rows:
        samples.keep(tmp_path, row["name"], np.zeros((1, 1, 3)), [], [spread(EVIL, EVIL)])
    page = Page(html.page(make_content(rows), tmp_path))
    assert len(page.attributes("script")) == 3
    assert f"{EVIL}: {EVIL}" in page.texts["h3"]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1e-6, "< 0.01 %"), (0.25, "25.00 %"), (1 - 1e-6, "> 99.99 %"), (1.0, "100 %")],
)
def test_percent_says_nothing_only_when_it_is_nothing(share: float, text: str) -> None:
    assert percent(share) == text


class Bridge:
    """Copies the checkpoint in place of an int8 file."""

    def __init__(self, reply: list[Activation] | ConversionError) -> None:
        self.reply = reply

    def export(self, source: Source, folder: Path, *_: Any) -> list[Artefact]:
        path = folder / "dense-int8.safetensors"
        shutil.copy(folder.parent / "models" / "dense.safetensors", path)
        return [Artefact("dense", "tflite", "int8", path)]

    def outputs(self, artefact: Artefact, source: Source, inputs: Any) -> Any:
        return bench.predict(artefact.path, inputs.numpy())

    def compare(self, *_: Any) -> dict[str, Any]:
        return {"reference": "dense", "max_abs": 0.0, "mean_abs": 0.0, "lsb_match": 1.0, "passed": True, "reason": ""}

    def weights(self, path: Path) -> list[Any]:
        return []

    def activations(self, path: Path, quantized: Any, inputs: Any) -> list[Activation]:
        assert path.name == "dense-int8.safetensors"
        assert quantize.is_quantized(quantized)
        assert inputs.shape == (2, 1, 16, 16)
        if isinstance(self.reply, ConversionError):
            raise self.reply
        return self.reply


def run(out: Path, reply: list[Activation] | ConversionError, monkeypatch: pytest.MonkeyPatch) -> str:
    def measure_all(paths: Sequence[Path], *_: Any, **__: Any) -> dict[Path, bench.Measurement]:
        return {path: bench.Measurement(bench.Latency(1.0, 2.0, 1, 5), 50.0, 40.0, 10.0, 3.0) for path in paths}

    monkeypatch.setattr(bench, "measure_all", measure_all)
    monkeypatch.setattr(bench, "predict", here.predict)
    content = {
        "data": "synthetic:cells?size=16&train=12&test=2",
        "model": {"arguments": {"widths": [4, 8]}},
        "variants": {"dense": {"train": {"epochs": 0}}},
        "precisions": ["int8"],
    }
    pipeline.run(recipe.parse(content), out, Bridge(reply))  # type: ignore[arg-type]
    return (out / "report.html").read_text()


def test_a_run_keeps_what_its_files_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The copy is float, so its loss is another one than that of the graph.
    monkeypatch.setattr("torchshrink.pipeline.job.LOSS_LIMIT", 1.0)
    text = run(tmp_path / "seen", [spread("relu_7")], monkeypatch)
    assert "conv: relu_7" in section(text, "activations")
    assert samples.activations(tmp_path / "seen", "dense/tflite-int8")[0].used == 4
    text = run(tmp_path / "unseen", ConversionError("refused"), monkeypatch)
    assert '<section id="activations">' not in text
    assert "dense/tflite-int8" in section(text, "files")  # the file itself is fine


def test_a_bridge_that_cannot_look_inside_is_none_of_these() -> None:
    class Blind:
        def weights(self, path: Path) -> list[Any]:
            return [path]

    assert not isinstance(Blind(), activations.Reader)
    assert isinstance(Bridge([]), activations.Reader)
