"""What the script does with made-up figures and operations; nothing is converted, nothing timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from script import load

from torchshrink import bench
from torchshrink.converters.anatomy import kernels
from torchshrink.converters.anatomy.operations import Operation
from torchshrink.quantize.operators import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "operator_parts"))

import speed_alone  # noqa: E402
import speed_cases  # noqa: E402
import speed_page  # noqa: E402
import speed_work  # noqa: E402

script = load("operator_speed")


def row(name: str, tflite: tuple[float, float], onnx: tuple[float, float], **more: Any) -> dict[str, Any]:
    """Return a row with the times of int8 and float in each runtime."""
    found: dict[str, Any] = {"name": name, "outside": []}
    for ending, kind, times in (("tflite", "GELU", tflite), ("onnx", "Gelu", onnx)):
        found[ending] = {
            precision: {"us": time, "kinds": [kind] if time else []}
            for precision, time in zip(("int8", "float"), times, strict=True)
        }
    return found | more


def step(kind: str, inputs: str, output: str, precision: Any = "int8") -> Operation:
    return Operation(kind, output, precision, tuple(inputs.split()), (output,), 0, 1.0)


def test_every_annotated_operator_is_measured() -> None:
    measured = {target for case in speed_cases.CASES.values() for target in case.targets}
    assert not measured & speed_cases.NOTHING
    assert {target._schema.name.removeprefix("aten::") for target in OPERATORS} == measured | speed_cases.NOTHING


def test_what_lies_between_the_convolutions_of_one_branch() -> None:
    operations = [
        step("QuantizeLinear", "x", "q", "conversion"),
        step("QLinearConv", "q", "a"),
        step("QLinearConv", "q", "b"),
        step("QLinearAdd", "a q", "sum"),
        step("Gelu", "b", "gelu", "float"),
        step("QLinearConv", "sum", "codes"),
        step("QLinearConv", "gelu", "others"),
        step("DequantizeLinear", "codes", "y", "conversion"),
    ]
    assert [each.kind for each in speed_work.between(operations, "y")] == ["QLinearAdd"]
    assert [each.kind for each in speed_work.between(operations, "others")] == ["Gelu"]


def test_where_no_convolution_follows_the_conversion_at_the_end_does_not_count() -> None:
    operations = [
        step("CONV_2D", "x", "a"),
        step("RESHAPE", "a", "flat"),
        step("FULLY_CONNECTED", "flat", "codes"),
        step("DEQUANTIZE", "codes", "y", "conversion"),
    ]
    assert [each.kind for each in speed_work.between(operations, "y")] == ["RESHAPE", "FULLY_CONNECTED"]


def test_an_operator_alone() -> None:
    assert [each.kind for each in speed_work.between([step("HARD_SWISH", "x", "y")], "y")] == ["HARD_SWISH"]


@pytest.mark.parametrize("kind", speed_alone.NAMES)
def test_operators_alone_run_in_both_forms(kind: str, tmp_path: Path) -> None:
    found = {}
    for is_int8 in (False, True):
        path = tmp_path / f"{is_int8}.tflite"
        speed_alone.write(kind, path, is_int8)
        codes = np.arange(64 * 64 * 16).reshape(1, 16, 64, 64) % 120 - 100
        found[is_int8] = bench.predict(path, (codes / 16).astype(np.float32))
    inside = found[False] < 7.9  # what does not leave the int8 grid
    assert np.abs(found[True] - found[False])[inside].max() <= 1 / 16
    assert found[False].std() > 0.1


def test_the_page_names_what_is_slower_and_what_leaves_xnnpack() -> None:
    rows = [
        row("gelu", (3.0, 1.5), (10.0, 20.0), outside=["GELU"]),
        row("relu", (0.0, 0.0), (0.0, 4.0)),
        {"name": "HARD_SWISH", "outside": ["HARD_SWISH"], "tflite": row("", (9.0, 3.0), (1, 1))["tflite"]},
        {"name": "abs", "error": "not done after 9 s of processor time"},
    ]
    page = speed_page.write(rows)
    assert "| gelu | **2.00** | 3.0 / 1.5 us: GELU | GELU | 0.50 | 10.0 / 20.0 us: Gelu |" in page
    assert "| relu | fused |  |  | fused |" in page
    assert page.index("| relu |") < page.index("| gelu |")  # in the order of the cases
    assert "| HARD_SWISH | **3.00** | 9.0 / 3.0 us: GELU | HARD_SWISH |  |  |" in page
    assert "Slower in int8, LiteRT: gelu; HARD_SWISH." in page
    assert "Slower in int8, ONNX Runtime: none." in page
    assert "Outside XNNPACK in int8: gelu; HARD_SWISH." in page
    assert "Not measured yet: sigmoid" in page
    assert "Not measured: abs, not done after 9 s" in page
    assert speed_page.ratio(rows[1], "onnx") is None
    assert speed_page.slower([row("x", (1.1, 1.0), (1.2, 1.0))], "tflite") == []


def test_what_fails_together_is_tried_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], _: float) -> dict[str, Any]:
        names = command[3:]
        return {"error": "ended with 1: no"} if "abs" in names else {"rows": [{"name": name} for name in names]}

    monkeypatch.setattr(script.processes, "run", run)
    assert list(script.measure(["add", "gelu", "abs", "relu"], 9.0)) == [
        {"name": "add"},
        {"name": "gelu"},
        {"name": "abs", "error": "ended with 1: no"},
        {"name": "relu"},
    ]


def test_what_is_there_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = tmp_path / "operators.jsonl"
    kept.write_text(json.dumps(row("gelu", (1, 1), (1, 1))) + "\n")
    asked = []

    def measure(names: list[str], _: float) -> list[dict[str, Any]]:
        asked.append(names)
        return [row(name, (1, 1), (1, 1)) for name in names]

    monkeypatch.setattr(script, "measure", measure)
    arguments = ["--work", str(tmp_path), "--dry", "--together", "1", "--operators", "gelu", "add", "sub"]
    monkeypatch.setattr(sys, "argv", ["operator_speed", *arguments])
    script.main()
    assert asked == [["add"], ["sub"]]
    assert [json.loads(line)["name"] for line in kept.read_text().splitlines()] == ["gelu", "add", "sub"]


def test_what_inspect_knows_is_what_the_page_says() -> None:
    """Every kind that is called slower stands in a row of the page that says so, of the same runtime.

    Of absolute values the page measures what they are written as: ABS, 70 times slower, is in others' files only.
    """
    lines = (ROOT / "docs" / "operators.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    for runtime, figure, kinds in (("LiteRT", 1, 2), ("ONNX Runtime", 4, 5)):
        slow = {
            kind
            for each in cells
            if each[figure].startswith("**")
            for kind in each[kinds].partition(": ")[2].split(", ")
        }
        assert kernels.SLOWER_IN_INT8[runtime] - {"ABS"} <= slow
