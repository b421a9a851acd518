"""What is said of processors: where files are right, and int8 that saves no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from html_page import Page, make_content, make_rows, row, section

from torchshrink.report import html, processors, text

AVX2 = {"processor": "Old", "instructions": ["SSE4.1", "AVX2"], "int8_dot_products": False}
VNNI = {"processor": "New", "instructions": ["AVX2", "AVX-512 VNNI"], "int8_dot_products": True}


def slow() -> list[dict[str, Any]]:
    """int8 of ONNX takes as long as float, that of TFLite half as long."""
    return [
        row("dense", "torch-fp32", 2.0, 20, 0.13),
        row("dense", "onnx-fp32", 1.9, 10, 0.13),
        row("dense", "onnx-int8", 0.5, 9.9, 0.13),
        row("dense", "tflite-fp32", 1.9, 10, 0.13),
        row("dense", "tflite-int8", 0.6, 5, 0.13),
    ]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [(AVX2, "no int8 dot products: AVX2 only; "), (VNNI, ""), ({"processor": "of 0.1.0"}, "")],
)
def test_int8_that_saves_no_time(environment: Any, reason: str) -> None:
    expected = (
        f"dense/onnx-int8: int8 saves 3.8x bytes and no time in ONNX Runtime on this processor ({reason}1.0x the time "
        "of float): for speed there ship dense/onnx-fp32, or remove channels."
    )
    content: Any = {"rows": slow(), "environment": environment}
    assert processors.said_of_speed(slow(), environment) == [expected]
    assert text.verdict(content).endswith(expected)
    assert text.recommendations(content)[-1] == expected


def test_int8_that_saves_time_is_not_spoken_of() -> None:
    rows = slow()
    rows[2]["latency_ms"]["median"] = 9.6  # 4 %: more than the noise
    assert processors.said_of_speed(rows, AVX2) == []  # type: ignore[arg-type]
    assert "no time" not in text.verdict({"rows": rows, "environment": AVX2})  # type: ignore[typeddict-item]


def test_the_float_file_of_a_trained_int8_variant_computes_as_much() -> None:
    rows = [
        row("dense", "onnx-fp32", 2.0, 4, 0.13, macs=100),
        row("slim", "onnx-fp32", 1.0, 2, 0.13, macs=50),
        row("slim-qat", "onnx-int8", 0.5, 3, 0.13, macs=50),
        row("other-qat", "onnx-int8", 0.5, 3, 0.13, macs=70),
    ]
    assert [(one["name"], other["name"]) for one, other in processors.slow_int8(rows)] == [
        ("slim-qat/onnx-int8", "slim/onnx-fp32")
    ]


def test_one_sentence_for_many_files() -> None:
    names = ("a", "b", "c", "d")
    rows = [row(name, "onnx-fp32", 2.0, 10, 0.13) for name in names]
    rows += [row(name, "onnx-int8", size, 15, 0.13) for name, size in zip(names, (0.5, 1.0, 1.0, 1.0), strict=True)]
    (found,) = processors.said_of_speed(rows, AVX2)  # type: ignore[arg-type]
    assert found.startswith("a/onnx-int8, b/onnx-int8, c/onnx-int8 and 1 more: int8 saves 2.0x to 4.0x bytes and no")
    assert "1.5x the time of float): for speed there ship a/onnx-fp32, b/onnx-fp32, c/onnx-fp32 and 1 more, or" in found
    rows[4]["bytes"] = 2_100_000
    assert "int8 saves neither bytes nor time" in processors.said_of_speed(rows, AVX2)[0]  # type: ignore[arg-type]


def test_int8_that_no_float_file_was_measured_beside() -> None:
    rows = [each for each in slow() if each["format"] == "torch" or each["precision"] == "int8"]
    assert processors.said_of_speed(rows, AVX2) == [  # type: ignore[arg-type]
        "dense/onnx-int8, dense/tflite-int8: int8 may save no time on this processor (no int8 dot products: AVX2 "
        "only), and no float file was measured beside it: add fp32 to the precisions."
    ]
    assert processors.said_of_speed(rows, VNNI) == []  # type: ignore[arg-type]


def test_where_files_are_right() -> None:
    rows = make_rows()
    alone = "every file was shown to be right on this one, and tried on no other (recipes: processors)."
    assert processors.shown_on(rows) == alone
    here = {"passed": True, "max_abs": 0.0}
    rows[1]["processors"] = {"here": here}
    assert processors.shown_on(rows) == alone
    for index in (2, 5):
        rows[index]["processors"] = {"here": here, "x86-avx2": here, "arm64": here}
    assert processors.shown_on(rows) == (
        "every file was shown to be right on this one; emulated, with one test input, also on x86-avx2 and arm64: "
        "dense/tflite-int8, pruned/onnx-int8."
    )


def test_what_the_processor_has() -> None:
    assert processors.machine(AVX2) == "Old with SSE4.1, AVX2 (no int8 dot products)"  # type: ignore[arg-type]
    assert processors.machine(VNNI) == "New with AVX2, AVX-512 VNNI"  # type: ignore[arg-type]
    assert processors.machine({"processor": "of 0.1.0"}) == "of 0.1.0"  # type: ignore[typeddict-item]


def test_page_and_markdown_say_so(tmp_path: Path) -> None:
    content = make_content(slow())
    content["environment"] |= AVX2
    here = {"passed": True, "max_abs": 0.0}
    content["rows"][4]["processors"] = {"here": here, "x86-sse4": here}
    (expected,) = processors.said_of_speed(content["rows"], content["environment"])
    page = html.page(content, tmp_path)
    assert expected in Page(section(page, "recommended") + "</section>").texts["p"]
    assert "here, x86-sse4" in Page(section(page, "verification") + "</section>").texts["td"]
    markdown = text.markdown(content)  # type: ignore[arg-type]
    for said in (processors.machine(content["environment"]), processors.shown_on(content["rows"])):
        assert said in section(page, "conditions")
        assert said in markdown.replace("\\", "")
