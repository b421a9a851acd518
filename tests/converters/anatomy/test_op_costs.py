"""Latency from the costs of operators: looked up, between what was measured, and how far off it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchshrink.converters.anatomy import op_costs
from torchshrink.converters.anatomy.op_costs import Cost, Costs
from torchshrink.errors import DataError


def row(macs: int, ms: float, kind: str = "CONV_2D int8", moved: int = 0) -> dict[str, Any]:
    return {"kind": kind, "shape": f"1x{macs}", "macs": macs, "bytes": moved, "ms": ms}


def file(name: str, *rows: dict[str, Any], share: float = 1.0) -> dict[str, Any]:
    return {"name": name, "ms": share * sum(each["ms"] for each in rows), "operators": list(rows)}


def told(costs: Costs, monkeypatch: pytest.MonkeyPatch, *wanted: Cost) -> float:
    monkeypatch.setattr(op_costs, "operators", lambda _: list(wanted))
    return costs.of_file(Path("new.tflite"))


def test_what_was_measured_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs({"files": [file("a", row(100, 1.0), row(100, 1.2), row(900, 7.0))]}, "c.json")
    assert told(costs, monkeypatch, Cost("CONV_2D int8", "1x100", 100, 0)) == pytest.approx(1.1)


def test_what_was_not_lies_on_the_line_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of 0.5 ms, 0.01 ms for a multiply-accumulate and 0.001 ms for a byte: worked out by hand."""
    rows = [
        row(macs, 0.5 + 0.01 * macs + 0.001 * moved, moved=moved) for macs, moved in ((10, 50), (200, 9), (50, 700))
    ]
    costs = Costs({"files": [file("a", *rows)]}, "c.json")
    found = told(costs, monkeypatch, Cost("CONV_2D int8", "1x77", 77, 100))
    assert found == pytest.approx(0.5 + 0.77 + 0.1)


def test_a_kind_that_was_never_measured_costs_what_those_of_its_precision_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(macs, 0.1 * macs) for macs in (10, 20)] + [row(macs, 5.0 * macs, "CONV_2D float") for macs in (10, 20)]
    costs = Costs({"files": [file("a", *rows)]}, "c.json")
    assert told(costs, monkeypatch, Cost("DEPTHWISE_CONV_2D int8", "1x30", 30, 0)) == pytest.approx(3.0)


def test_what_an_operator_takes_longer_alone_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two operators took 8 ms one by one and 6.4 in their file: each 0.8 ms longer alone."""
    costs = Costs({"files": [file("a", row(100, 1.0), row(900, 7.0), share=0.8)]}, "c.json")
    assert told(costs, monkeypatch, Cost("CONV_2D int8", "1x900", 900, 0)) == pytest.approx(7.0 - 0.8)


def test_the_error_is_that_of_each_file_from_the_others() -> None:
    three = [file("a", row(10, 1.0), row(20, 2.0)), file("b", row(10, 1.0), row(30, 3.0)), file("c", row(40, 4.0))]
    assert Costs({"files": three}, "c.json").error() == pytest.approx(0.0, abs=1e-9)
    three[2] = {**three[2], "ms": 8.0}  # twice what the others let one expect
    # a and b from the others: half as much again, by the median share of 1 and 2; c from them: 4 of its 8 ms
    assert Costs({"files": three}, "c.json").error() == pytest.approx(0.5)
    assert Costs({"files": three[:2]}, "c.json").error() is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: `torchshrink bench FILES.tflite --save"),
        ("{", "is damaged"),
        ("[]", "holds no costs"),
        (json.dumps({"rows": []}), "holds no costs"),
        (json.dumps({"costs": {"files": []}}), "no TFLite file was measured"),
        (json.dumps({"costs": {"files": [{"name": "a", "ms": "?", "operators": []}]}}), "that can be used"),
    ],
)
def test_a_file_without_costs_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        Costs.load(path)


@pytest.mark.parametrize(
    ("kind", "weight", "times"),
    [
        ("CONV_2D int8", "8x3x3x1", 8.0),  # one input channel is computed as eight
        ("CONV_2D int8", "12x3x3x16", 16 / 12),
        ("FULLY_CONNECTED int8", "10x64", 1.6),
        ("DEPTHWISE_CONV_2D int8", "1x3x3x12", 1.0),
        ("CONV_2D float32", "8x3x3x1", 1.0),
    ],
)
def test_int8_kernels_fill_channels_up_to_eights(kind: str, weight: str, times: float) -> None:
    cost = op_costs.Cost(kind, f"1x4x4x8 1x4x4x1 {weight} 8 1x1", 100, 50)
    assert op_costs._amounts(cost) == (1.0, pytest.approx(100 * times), 50.0)
