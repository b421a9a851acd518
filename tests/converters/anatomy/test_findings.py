"""What is said about files: every cause once, with its share of the time and what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from torchshrink.converters.anatomy import kernels
from torchshrink.converters.anatomy.findings import findings, short, verdict
from torchshrink.converters.anatomy.operations import Operation, detours


def step(kind: str, precision: Any, inputs: str, outputs: str, ms: float = 1.0) -> Operation:
    macs = 1000 if "conv" in kind.lower() else 0
    return Operation(kind, outputs.split()[0], precision, tuple(inputs.split()), tuple(outputs.split()), macs, ms)


def between(*middle: Operation) -> list[Operation]:
    """int8 conv1 -> DEQUANTIZE -> what is between r0 and q -> QUANTIZE -> int8 conv2; 20 ms but for the middle."""
    return [
        step("CONV_2D", "int8", "x", "conv1", 8.0),
        step("DEQUANTIZE", "conversion", "conv1", "r0", 2.0),
        *middle,
        step("QUANTIZE", "conversion", "r", "q", 2.0),
        step("CONV_2D", "int8", "q", "conv2", 8.0),
    ]


def say(operations: list[Operation], runtime: kernels.Runtime = "LiteRT") -> tuple[str, ...]:
    return findings(operations, detours(operations), runtime)


def test_a_kind_without_a_kernel_and_its_neighbours() -> None:
    operations = between(
        step("SQUARE", "float", "r0", "square", 16.0),
        step("CONV_2D", "float", "square", "conv3", 4.0),
        step("RESHAPE", "float", "conv3", "r", 0.0),
    )
    first, second = say(operations)
    assert first == (
        "SQUARE square computes in float, because LiteRT has no int8 kernel for SQUARE (1 of 1 detour, 60.0% of the "
        "time with conversions): write it as x * x, a MUL."
    )
    assert second == (
        "CONV_2D conv3 computes in float because its input comes from SQUARE square, which has no int8 kernel: 10.0% "
        "of the time."
    )
    assert verdict(operations, detours(operations)) == "1 detour through float takes 60.0% of the time."


def test_an_integer_kernel_that_is_slow() -> None:
    """Hard-swish in LiteRT: XNNPACK has it for floats only, and the other int8 kernel takes most of the time."""
    operations = [
        step("CONV_2D", "int8", "x", "conv", 6.0),
        step("HARD_SWISH", "int8", "conv", "swish", 3.0),
        step("ADD", "int8", "swish", "y", 1.0),
    ]
    (line,) = say(operations)
    assert line.startswith(
        "HARD_SWISH computes in int8, but takes 30.0% of the time: its int8 kernel in LiteRT is slower than its "
        "float one; replace"
    )
    operations[1] = step("HARD_SWISH", "int8", "conv", "swish", 0.2)  # little, but more than in float
    assert say(operations)[0].startswith("HARD_SWISH computes in int8, but takes 2.8% of the time")
    assert verdict(operations, ()) == "All of it computes in int8."
    operations[1] = step("RSQRT", "int8", "conv", "swish", 0.2)  # of a Mish: docs/operators.md has 100 times
    assert "float one; use batch normalization for norms" in say(operations)[0]


def test_multiplying_is_what_the_time_is_for() -> None:
    assert say([step("CONV_2D", "int8", "x", "y", 9.0)]) == ()


def test_a_neighbour_before_the_kind_without_a_kernel() -> None:
    operations = between(step("CONV_2D", "float", "r0", "conv3", 4.0), step("SIN", "float", "conv3", "r", 16.0))
    assert say(operations)[1].startswith("CONV_2D conv3 computes in float because its output goes to SIN r, which")


def test_a_neighbour_two_steps_away() -> None:
    operations = between(
        step("SIN", "float", "r0", "sine", 10.0),
        step("RELU", "float", "sine", "relu", 0.0),
        step("CONV_2D", "float", "relu", "r", 10.0),
    )
    assert say(operations)[1].startswith("CONV_2D r computes in float because its input comes from SIN sine, which")


def test_detours_of_one_cause_are_told_of_once_and_the_expensive_cause_first() -> None:
    operations = [
        step("CONV_2D", "int8", "x", "a", 10.0),
        *(
            item
            for index, kind, ms in ((1, "RESHAPE", 1.0), (2, "SIN", 60.0), (3, "RESHAPE", 3.0))
            for item in (
                step("DEQUANTIZE", "conversion", f"a{index}", f"b{index}", 0.0),
                step(kind, "float", f"b{index}", f"c{index}", ms),
                step("QUANTIZE", "conversion", f"c{index}", f"d{index}", 0.0),
            )
        ),
        step("CONV_2D", "int8", "d3", "y", 26.0),
    ]
    first, second = say(operations)
    assert "SIN c2 computes" in first
    assert "(1 of 3 detours, 60.0% of the time with conversions)" in first
    assert second == (
        "RESHAPE c1, RESHAPE c3 compute in float although LiteRT has int8 kernels for RESHAPE (2 of 3 detours, 4.0% of "
        "the time with conversions): they only move values, so give their inputs and outputs the same scale and zero "
        "point."
    )
    assert verdict(operations, detours(operations)) == "3 detours through float take 64.0% of the time."


def test_a_pair_around_nothing() -> None:
    operations = between()
    operations[1] = step("DEQUANTIZE", "conversion", "conv1", "r", 2.0)
    assert say(operations) == (
        "Values are dequantized and quantized again with nothing in between (1 of 1 detour, 20.0% of the time with "
        "conversions): give the two tensors the same scale and zero point.",
    )


@pytest.mark.parametrize(
    ("runtime", "kinds", "remedy"),
    [
        ("LiteRT", ["LOGISTIC", "MUL"], "this looks like SiLU: replace it by ReLU or ReLU6."),
        ("LiteRT", ["EXP", "ADD", "LOG", "TANH", "MUL"], "this looks like Mish: replace it by ReLU or ReLU6."),
        ("ONNX Runtime", ["Div", "Erf", "Add", "Mul"], "this looks like GELU: replace it by ReLU, leaky ReLU or a"),
        ("ONNX Runtime", ["Elu"], "replace Elu by ReLU, leaky ReLU or a sigmoid."),
        ("ONNX Runtime", ["ConvTranspose"], "make its kernel as large as its stride"),
        ("ONNX Runtime", ["Sin"], "replace it, or move it to the beginning or the end"),
        ("ONNX Runtime", ["Concat"], "without --target generic."),
        ("LiteRT", ["CONV_2D"], "quantize their weights, inputs and outputs too."),
        ("LiteRT", ["CONV_2D", "ADD"], "quantize the values that pass between them too."),
    ],
)
def test_what_to_do(runtime: kernels.Runtime, kinds: list[str], remedy: str) -> None:
    names = ["r0", *(f"t{index}" for index in range(len(kinds) - 1)), "r"]
    middle = [step(kind, "float", names[index], names[index + 1]) for index, kind in enumerate(kinds)]
    text = say(between(*middle), runtime)[0]
    assert remedy in text


def test_what_the_runtime_added_is_not_blamed() -> None:
    middle = [
        step("ReorderInput", "float", "r0", "a"),
        step("MaxPool", "float", "a", "b"),
        step("ReorderOutput", "float", "b", "r"),
    ]
    (text,) = say(between(*middle), "ONNX Runtime")
    assert text.startswith("MaxPool b computes in float although ONNX Runtime has int8 kernels for MaxPool (")


def test_verdicts_of_files_without_detours() -> None:
    floats = [step("CONV_2D", "float", "x", "y")]
    assert verdict(floats, detours(floats)).startswith("It is a float file: nothing in it computes in int8. Quantize")
    assert say(floats) == ()
    integers = [step("CONV_2D", "int8", "x", "y", 3.0)]
    assert verdict(integers, ()) == "All of it computes in int8."
    ends = [*integers, step("DEQUANTIZE", "conversion", "y", "z", 1.0)]
    assert (
        verdict(ends, ()) == "All of it computes in int8, but for converting its input and output (25.0% of the time)."
    )


def test_nothing_measured_is_no_division_by_zero() -> None:
    operations = between(step("SIN", "float", "r0", "r"))
    unmeasured = [Operation(item.kind, item.name, item.precision, item.inputs, item.outputs) for item in operations]
    (text,) = say(unmeasured)
    assert re.search(r"1 of 1 detour, 0\.0% of the time", text)


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b/c;d/e", "b/c"), ("conv", "conv"), ("model/add/Add", "add/Add"), ("", "")]
)
def test_short_names(name: str, expected: str) -> None:
    assert short(name) == expected
