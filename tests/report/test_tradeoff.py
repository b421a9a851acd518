"""Recommendations and fronts on rows that are worked out by hand."""

import math
from typing import Any

import pytest

from torchshrink.report import tradeoff


def row(name: str, size: float, ms: float, ram: float, loss: float) -> dict[str, Any]:
    variant, _, file = name.partition("/")
    format_, precision = file.split("-")[:2]
    return {
        "name": name,
        "variant": variant,
        "format": format_,
        "precision": precision,
        "bytes": round(size * 1e6),
        "latency_ms": {"median": ms},
        "peak_rss_mb": ram,
        "loss": loss,
    }


DENSE = row("a/torch-fp32", 0.1, 0.1, 1, 0.2)  # better than all in everything, and yet not to be shipped


def names(rows: list[dict[str, Any]], **settings: float) -> dict[str, str | None]:
    return {item.goal: item.row and item.row["name"] for item in tradeoff.recommend(rows, **settings)}


def test_a_file_for_each_goal() -> None:
    rows = [
        DENSE,
        row("a/onnx-fp32", 2.0, 9, 90, 0.15),
        row("a/tflite-int8", 1.0, 7, 40, 0.21),  # exactly the budget
        row("b/tflite-int8", 1.5, 3, 60, 0.205),
        row("c/tflite-int8", 0.5, 1, 20, 0.2101),  # beyond it
    ]
    assert names(rows) == {
        "smallest": "a/tflite-int8",
        "fastest": "b/tflite-int8",
        "least RAM": "a/tflite-int8",
        "lowest loss": "a/onnx-fp32",
    }
    assert names(rows, budget=0.02)["smallest"] == "c/tflite-int8"


def test_of_equal_files_the_smaller_then_the_better_then_the_first() -> None:
    rows = [
        DENSE,
        row("a/tflite-fp32", 3.0, 1.00, 50, 0.2),
        row("a/tflite-int8", 1.0, 1.02, 51, 0.2),  # 2 % more is noise
        row("b/tflite-int8", 1.0, 1.02, 51, 0.19),
        row("c/tflite-int8", 1.0, 1.02, 51, 0.19),
        row("d/tflite-int8", 0.9, 1.04, 52, 0.2),  # 4 % is not
    ]
    found = names(rows)
    assert found["fastest"] == "b/tflite-int8"
    assert found["smallest"] == "d/tflite-int8"
    assert found["least RAM"] == "b/tflite-int8"  # 52 MB is 4 % more than 50


def test_losses_below_zero() -> None:
    rows = [DENSE | {"loss": -1.0}, row("a/onnx-fp32", 2, 2, 2, -1.0), row("b/onnx-int8", 1, 1, 1, -0.9995)]
    assert names(rows)["lowest loss"] == "b/onnx-int8"  # 0.05 % is noise
    assert [item["name"][0] for item in tradeoff.front(rows[1:], "size")] == ["b"]


def test_nothing_within_the_budget() -> None:
    rows = [DENSE, row("a/onnx-fp32", 2, 2, 2, 0.5), row("a/tflite-fp32", 1, 1, 1, 0.4)]
    *bounded, lowest = tradeoff.recommend(rows)
    assert [item.row for item in bounded] == [None] * 3
    assert {item.closest["name"] for item in bounded if item.closest} == {"a/tflite-fp32"}
    assert lowest.row is rows[2]


@pytest.mark.parametrize("rows", [[], [DENSE], [DENSE, row("a/onnx-fp32", 1, 1, 1, math.nan)]])
def test_nothing_to_recommend(rows: list[dict[str, Any]]) -> None:
    found = tradeoff.recommend(rows)
    assert [item.goal for item in found] == ["smallest", "fastest", "least RAM", "lowest loss"]
    assert [(item.row, item.closest) for item in found] == [(None, None)] * 4


def test_front() -> None:
    rows = [
        row("e/onnx-int8", 4, 1, 1, 0.1),
        row("a/onnx-int8", 1, 1, 1, 0.4),
        row("b/onnx-int8", 2, 1, 1, 0.4),  # larger, no better
        row("c/onnx-int8", 2, 1, 1, 0.3),
        row("d/onnx-int8", 3, 1, 1, 0.29999),  # better by less than the noise
        row("f/onnx-int8", 5, 1, 1, math.nan),
    ]
    assert [item["name"][0] for item in tradeoff.front(rows, "size")] == ["a", "c", "e"]
    assert [item["name"][0] for item in tradeoff.front(rows, "latency")] == ["e"]
    assert tradeoff.front([], "RAM") == []


def test_noise_is_no_reason_to_be_on_the_front() -> None:
    rows = [row("a/onnx-int8", 1, 1.00, 1, 0.4), row("b/onnx-int8", 1, 1.02, 1, 0.3), row("c/onnx-int8", 1, 2, 1, 0.2)]
    assert [item["name"][0] for item in tradeoff.front(rows, "latency")] == ["b", "c"]


def test_unknown_figures() -> None:
    unknown = row("a/onnx-int8", 1, 1, 1, 0.2) | {"peak_rss_mb": None}
    assert math.isnan(tradeoff.value(unknown, "RAM"))
    assert names([DENSE, unknown])["least RAM"] is None
    assert names([DENSE, unknown])["smallest"] == "a/onnx-int8"
