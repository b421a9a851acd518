"""``torchshrink bench`` as a user calls it; no test asserts a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from program import Result, call, launch


def save(path: Path, shape: tuple[int | str, ...]) -> Path:
    """Write ``y = 2 x``."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    save(folder / "free.onnx", (1, 1, "h", "w"))
    save(folder / "fixed.onnx", (1, 1, 4, 6))
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Result:
    """Everything at once, saved as old.json."""
    files = (folder / "fixed.onnx", folder / "free.onnx")
    extra = ("--threads", "1,2", "--runs", "5", "--sizes", "8,16", "--profile", "--save", folder / "old.json", "--json")
    result = launch("bench", *files, *extra)
    assert result.code == 0, result.stderr
    return result


@pytest.fixture
def edit(folder: Path, first: Result, tmp_path: Path) -> Any:
    """Write old.json with the ratio of free.onnx on one thread set to (x, x, x)."""

    def write(ratio: float) -> Path:
        content = json.loads((folder / "old.json").read_text())
        (row,) = (row for row in content["rows"] if (row["name"], row["threads"]) == ("free.onnx", 1))
        row["ratio"] = {"median": ratio, "low": ratio, "high": ratio}
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_json_is_all_of_stdout_and_what_was_saved(first: Result, folder: Path) -> None:
    assert first.json == json.loads((folder / "old.json").read_text())
    order = [("fixed.onnx", 1), ("free.onnx", 1), ("fixed.onnx", 2), ("free.onnx", 2)]
    assert [(row["name"], row["threads"]) for row in first.json["rows"]] == order
    assert (first.json["schema"], first.json["reference"]) == (1, "fixed.onnx")
    assert first.json["environment"]["packages"]["onnxruntime"]
    assert first.json["rows"][0]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    for row in first.json["rows"]:
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert row["latency_ms"]["p10"] <= row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        assert row["latency_ms"]["runs"] == len(row["rounds_ms"]) == 5


def test_sizes_only_where_the_file_takes_them(first: Result) -> None:
    found = {(row["name"], row["size"]): row for row in first.json["sizes"]}
    assert set(found) == {("fixed.onnx", 8), ("fixed.onnx", 16), ("free.onnx", 8), ("free.onnx", 16)}
    assert found["fixed.onnx", 8]["note"] == "fixed size, takes [1, 1, 4, 6] only"
    assert found["fixed.onnx", 8]["peak_rss_mb"] is None
    assert found["free.onnx", 16]["note"] is None
    assert found["free.onnx", 16]["peak_rss_mb"] > 10


def test_profile_sums_by_operation(first: Result) -> None:
    assert [[item["operation"] for item in profile["operations"]] for profile in first.json["profiles"]] == [
        ["Mul"]
    ] * 2


def test_table_shows_blocks_spreads_notes_and_a_regression(folder: Path, edit: Any) -> None:
    files = (folder / "free.onnx", "--reference", folder / "fixed.onnx")
    extra = ("--threads", "1,2", "--runs", "5", "--sizes", "8", "--profile", "--wide", "--against", edit(1e6))
    result = call("bench", *files, *extra)
    assert result.code == 4
    for text in ("threads: 1", "threads: 2", "vs fixed.onnx", "1.00x (1.00-1.00)", "cold start ms", "CPU ms",
                 "fixed size, takes [1, 1, 4, 6] only", "operations of free.onnx", "ratios: median of"):  # fmt: skip
        assert text in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "free.onnx on 1 thread was 1000000.00x (1000000.00-1000000.00) against fixed.onnx and is now" in line


def test_against_a_slower_past_is_well_and_json_stays_pure(folder: Path, edit: Any) -> None:
    save(folder / "new.onnx", (1, 1, 4, 6))
    files = (folder / "fixed.onnx", folder / "free.onnx", folder / "new.onnx")
    result = call("bench", *files, "--runs", "5", "--against", edit(0.0), "--json")
    assert result.code == 0, result.stderr
    assert result.json["against"]["regressions"] == []
    assert result.json["against"]["notes"] == [
        "new.onnx on 1 thread is not in the older measurement: nothing to compare it with"
    ]


@pytest.mark.parametrize("content", [None, "{", '{"schema": 1}'])
def test_missing_or_damaged_past_exits_3_before_measuring(content: str | None, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    result = call("bench", folder / "fixed.onnx", "--against", path, "--json")
    assert result.code == 3
    assert str(path) in result.stderr
    assert "measure on" not in result.stderr
    assert result.stdout == ""


def test_past_with_another_reference_exits_3(folder: Path, edit: Any) -> None:
    result = call("bench", folder / "free.onnx", folder / "fixed.onnx", "--against", edit(1.0))
    assert result.code == 3
    assert "holds ratios to fixed.onnx, these are to free.onnx: pass --reference" in result.stderr


def test_an_existing_file_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("mine")
    result = call("bench", folder / "fixed.onnx", "--save", tmp_path / "out.json")
    assert result.code == 3
    assert "--overwrite" in result.stderr
    assert (tmp_path / "out.json").read_text() == "mine"


@pytest.mark.parametrize("option", ["--threads", "--sizes"])
@pytest.mark.parametrize("value", ["0", "1,x", ""])
def test_bad_counts_exit_2(option: str, value: str) -> None:
    result = call("bench", "x.onnx", f"{option}={value}")
    assert result.code == 2
    assert option in result.stderr


def test_a_file_of_any_size_needs_a_size(folder: Path) -> None:
    result = call("bench", folder / "free.onnx")
    assert result.code == 3
    assert "takes inputs of any size: pass --data, or --sizes" in result.stderr


def test_a_missing_reference_is_named(folder: Path) -> None:
    result = call("bench", folder / "fixed.onnx", "--reference", folder / "gone.onnx")
    assert result.code == 3
    assert "gone.onnx" in result.stderr
