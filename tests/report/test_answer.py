"""The one answer of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from html_page import Page, make_content, make_rows, section
from onnx import TensorProto, helper
from program import call

from torchshrink.converters.ends import ends
from torchshrink.report import html, versus
from torchshrink.report.answer import answer, code
from torchshrink.report.text import judge_of

TASK: Any = {
    "input": [1, 2, 3, 4],
    "output": [1, 2, 3, 4],
    "normalization": {"mean": [1.0, 2.0], "std": [2.0, 4.0]},
}


def test_the_file_that_is_best_for_most_goals() -> None:
    content: Any = make_content(make_rows())
    found = answer(content, judge_of(content))
    assert found.row is not None
    assert found.row["name"] == "pruned/tflite-int8-sparse"
    assert found.sentence.startswith(
        "Ship pruned/tflite-int8-sparse: the smallest and the one with the least RAM of those whose"
    )
    assert content["environment"]["processor"] in found.sentence
    (other,) = found.others
    assert other.startswith("The fastest: dense/tflite-int8 (0.500 MB, 3.00 ms")
    assert found.warnings == ["dense/onnx-fp16 failed and is not there: differs by 0.5"]
    assert "99.50% of the outputs within one step" in found.proof
    found.row["processors"] = {"here": {"passed": True, "max_abs": 0.0}, "arm64": {"passed": True, "max_abs": 0.0}}
    assert "this processor and arm64" in answer(content, judge_of(content)).proof


def test_nothing_is_shipped_of_a_useless_model_or_beyond_the_budget() -> None:
    content: Any = make_content(make_rows())
    content["task"] |= {"decides": "loss", "metrics": {}, "constant": {"loss": 0.13}, "budget": None}
    found = answer(content, judge_of(content))
    assert found.row is None
    assert "learned nothing" in found.sentence
    for item in content["rows"][1:]:
        item["loss"] = 9.0
    content["task"]["constant"] = {}
    found = answer(content, judge_of(content))
    assert found.row is None
    assert found.sentence.startswith("Ship dense/torch-fp32: no exported file's test loss is within")
    content["rows"] = []
    assert answer(content, judge_of(content)).sentence == "Ship nothing yet: no file was verified."


def test_the_page_begins_with_it(tmp_path: Path) -> None:
    content: Any = make_content(make_rows())
    content["rows"][4]["ends"] = {
        "inputs": [{"name": "x", "type": "int8", "shape": [1, 24, 32, 1], "scale": 0.125, "zero_point": -3}],
        "outputs": [],
    }
    text = html.page(content, tmp_path)
    page = Page(section(text, "ship") + "</section>")
    assert [each["href"] for each in page.attributes("a")] == ["files/pruned-tflite-int8-sparse"]
    assert "takes x: int8 [1, 24, 32, 1], value = (code - -3) * 0.125" in page.texts["li"]
    assert text.index('id="ship"') < text.index('class="verdict"')
    assert "Interpreter(&#39;files/pruned-tflite-int8-sparse&#39;)" in text


def test_the_code_runs(tmp_path: Path, monkeypatch: Any) -> None:
    shape = [1, 2, 3, 4]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert ends(tmp_path / "m.onnx") == {
        "inputs": [{"name": "x", "type": "float32", "shape": shape}],
        "outputs": [{"name": "y", "type": "float32", "shape": shape}],
    }
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"raw": np.full(shape, 5.0)}
    exec("\n".join(code({"path": "m.onnx", "format": "onnx", "precision": "fp32"}, TASK)), names)  # type: ignore[typeddict-item]
    assert names["outputs"][0].tolist() == np.broadcast_to(np.reshape([-2.0, -0.75], (1, 2, 1, 1)), shape).tolist()


def test_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    one: Any = make_content(make_rows())
    other: Any = make_content(make_rows()[:-1])
    other["rows"][1]["bytes"] = 1_000_000
    other["environment"] = {**other["environment"], "processor": "another"}
    for name, content in (("first", one), ("second", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"schema": 1, **content}))
    result = call("report", "first", "second", "--out", "both.html", cwd=tmp_path)
    assert result.code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("dense/tflite-fp32")]
    assert line.split()[1:3] == ["1.900", "1.000"]
    (lone,) = [line for line in result.stdout.splitlines() if line.startswith("pruned/onnx-int8")]
    assert len(lone.split()) == 4  # of the first run only
    assert "measured on different processors" in result.stdout
    page = Page((tmp_path / "both.html").read_text())
    assert page.texts["h1"] == ["first and second"]
    size, latency = page.figures.values()
    assert [trace["name"] for trace in size["data"]] == ["first", "second"]
    assert [trace["x"][1] for trace in size["data"]] == [1.9, 1.0]
    assert len(latency["data"][1]["x"]) == 5
    found = call("report", "first", "second", "--json", cwd=tmp_path).json
    assert found["rows"][1]["MB second"] == 1.0
    assert call("report", "first", "--out", "x.html", cwd=tmp_path).code == 2


def test_runs_that_are_judged_by_different_figures_are_compared_by_loss() -> None:
    one: Any = make_content(make_rows())
    other: Any = make_content(make_rows())
    other["task"] |= {"decides": "dice", "metrics": {"dice": {"higher_is_better": True, "unit": ""}}, "budget": None}
    headings, lines = versus.table(one, other, ("a", "b"))
    assert headings[3:5] == ["loss a", "loss b"]
    assert [cell.text for cell in lines[0]][3:5] == ["0.1300", "0.1300"]
    assert "a is judged by loss, b by dice: losses are shown." in versus.sentences(one, other, ("a", "b"))
    assert versus.table(other, other, ("a", "b"))[0][3] == "dice a"
