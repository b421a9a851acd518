"""Slow int8 operations in other forms: the same codes, in kernels of XNNPACK and in LiteRT's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from torchshrink.converters import targets, tflite_file
from torchshrink.converters.int8_tflite import fast_forms
from torchshrink.converters.tflite_file import Graph
from torchshrink.quiet import silent_stderr

INT8, FLOAT32, Op = schema.TensorType.INT8, schema.TensorType.FLOAT32, schema.BuiltinOperator
CODES = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)


def clamp(low: float, high: float) -> Any:
    return lambda values: np.clip(values, low, high)


EXPECTED = {"RELU": clamp(0, np.inf), "RELU6": clamp(0, 6), "RELU_N1_TO_1": clamp(-1, 1), "ABS": np.abs,
            "HARD_SWISH": lambda x: x * np.clip(x + 3, 0, 6) / 6}  # fmt: skip


def write(builder: Any, kind: str, scales: tuple[float, float], dtype: int = INT8) -> Any:
    ends = [
        builder.tensor(name, CODES.shape, dtype, **({"scale": scale} if dtype == INT8 else {}))
        for name, scale in zip(("input", "output"), scales, strict=True)
    ]
    builder.operator(getattr(Op, kind), ends[:1], ends[1:])
    return builder.finish(ends[:1], ends[1:])


@pytest.mark.parametrize("scales", [(0.1, 0.1), (0.1, 0.043), (0.03, 0.07)])
@pytest.mark.parametrize("kind", EXPECTED)
def test_the_same_codes_in_a_kernel_of_xnnpack(
    tflite_builder: Any, tmp_path: Path, kind: str, scales: tuple[float, float]
) -> None:
    model = write(tflite_builder, kind, scales)
    assert fast_forms.rewrite(model) == 1
    assert fast_forms.rewrite(model) == 0
    tflite_file.write(model, tmp_path / "model.tflite")
    exact = EXPECTED[kind](CODES * np.float64(scales[0])) / scales[1]
    for resolver in (OpResolverType.AUTO, OpResolverType.BUILTIN_REF):
        with silent_stderr():
            opened = Interpreter(str(tmp_path / "model.tflite"), experimental_op_resolver_type=resolver)
            opened.allocate_tensors()
        opened.set_tensor(opened.get_input_details()[0]["index"], CODES)
        opened.invoke()
        found = opened.get_tensor(opened.get_output_details()[0]["index"])
        # Rounded, ties either way; XNNPACK's leaky ReLU has 8 bits for the ratio of the two scales.
        assert np.abs(found - np.clip(exact, -128, 127)).max() <= (0.51 + 128 / 512 * (kind == "ABS"))
        is_taken = any(each["op_name"] == "DELEGATE" for each in opened._get_ops_details())
        assert is_taken == (resolver == OpResolverType.AUTO)


def test_hard_swish_stays_int8_where_there_are_no_floats(tflite_builder: Any) -> None:
    model = write(tflite_builder, "HARD_SWISH", (0.1, 0.1))
    assert fast_forms.rewrite(model, "integer-only") == 0
    assert fast_forms.rewrite(model) == 1
    graph = Graph(model)
    assert [graph.kind(each) for each in graph.operators] == ["DEQUANTIZE", "HARD_SWISH", "QUANTIZE"]
    assert graph.is_int8(graph.inputs[0])
    assert graph.is_int8(graph.outputs[0])


@pytest.mark.parametrize("scales", [(0.1, 0.1), (0.03, 0.02)])
def test_hard_swish_is_made_of_what_the_edge_tpu_has(
    tflite_builder: Any, tmp_path: Path, interpreter: Any, scales: tuple[float, float]
) -> None:
    model = write(tflite_builder, "HARD_SWISH", scales)
    assert fast_forms.rewrite(model, "edgetpu") == 1
    assert [Graph(model).kind(each) for each in Graph(model).operators] == ["ADD", "MUL", "MUL"]
    targets.check(model, "edgetpu", "model.tflite")
    tflite_file.write(model, tmp_path / "model.tflite")
    opened = interpreter(tmp_path / "model.tflite")
    opened.set_tensor(opened.get_input_details()[0]["index"], CODES)
    opened.invoke()
    exact = np.clip(EXPECTED["HARD_SWISH"](CODES * np.float64(scales[0])) / scales[1], -128, 127)
    # What is clipped has steps of 6 / 255, and its product with a sixth is rounded once more.
    allowed = 0.6 + np.abs(CODES * np.float64(scales[0])) / scales[1] / 255
    assert (np.abs(opened.get_tensor(opened.get_output_details()[0]["index"]) - exact) <= allowed).all()


def test_float_is_left_alone(tflite_builder: Any) -> None:
    model = write(tflite_builder, "RELU", (1, 1), FLOAT32)
    assert fast_forms.rewrite(model) == 0
    assert [Graph(model).kind(each) for each in Graph(model).operators] == ["RELU"]


@pytest.mark.parametrize(
    ("before", "after", "is_aligned", "is_float"),
    [(12, 96, True, True), (32, 96, False, True), (12, 96, False, False), (4, 16, True, False)],
)
def test_resizing_is_exact_without_xnnpack(
    tflite_builder: Any, tmp_path: Path, before: int, after: int, is_aligned: bool, is_float: bool
) -> None:
    shapes = {"input": (1, before, before, 1), "output": (1, after, after, 1)}
    entry, result = (tflite_builder.tensor(name, shape, INT8, scale=0.1) for name, shape in shapes.items())
    size = tflite_builder.tensor("size", (2,), schema.TensorType.INT32, np.array([after, after], np.int32))
    options = schema.ResizeBilinearOptionsT()
    options.alignCorners, options.halfPixelCenters = is_aligned, not is_aligned
    tflite_builder.operator(Op.RESIZE_BILINEAR, [entry, size], [result], options)
    model = tflite_builder.finish([entry], [result])
    assert fast_forms.rewrite(model, "integer-only") == 0
    assert fast_forms.rewrite(model) == is_float
    tflite_file.write(model, tmp_path / "model.tflite")
    codes = np.random.default_rng(0).integers(-128, 128, shapes["input"]).astype(np.int8)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(codes).float().movedim(-1, 1), (after, after), mode="bilinear", align_corners=is_aligned
    )
    with silent_stderr():
        opened = Interpreter(
            str(tmp_path / "model.tflite"),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        opened.allocate_tensors()
    opened.set_tensor(opened.get_input_details()[0]["index"], codes)
    opened.invoke()
    found = torch.from_numpy(opened.get_tensor(opened.get_output_details()[0]["index"])).float().movedim(-1, 1)
    assert (found - exact).abs().max() < 2
