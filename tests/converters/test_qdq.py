"""Splitting a QDQ graph into a float graph and its ranges, on graphs small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper
from torch.nn import functional as F

from torchshrink.converters import onnx_file, qdq
from torchshrink.converters.ranges import Range
from torchshrink.errors import ConversionError

Build = Callable[..., onnx.ModelProto]
Run = Callable[..., NDArray[Any]]

INPUT, OUTPUT = 0.5, 0.25  # scales
WEIGHT = np.array([0.5, 0.125], np.float32)


def _nodes() -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "x_scale", "x_zero"], ["x_real"]),
        helper.make_node("DequantizeLinear", ["w_codes", "w_scale", "w_zero"], ["w_real"], axis=0),
        helper.make_node("Conv", ["x_real", "w_real", "bias"], ["conv"], kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["conv", "y_scale", "y_zero"], ["y_codes"]),
        helper.make_node("DequantizeLinear", ["y_codes", "y_scale", "y_zero"], ["y"]),
    ]


def _constants(dtype: type, shift: int) -> dict[str, Any]:
    return {
        "x_scale": np.float32(INPUT),
        "x_zero": dtype(-3 + shift),
        "w_codes": np.random.default_rng(0).integers(-127, 128, (2, 1, 3, 3)).astype(np.int8),
        "w_scale": WEIGHT,
        "w_zero": np.zeros(2, np.int8),
        "bias": np.array([1.5, -2.0], np.float32),
        "y_scale": np.float32(OUTPUT),
        "y_zero": dtype(7 + shift),
    }


@pytest.fixture(params=[(np.int8, 0), (np.uint8, 128)], ids=["int8", "uint8"])
def convolution(request: pytest.FixtureRequest, onnx_model: Build) -> onnx.ModelProto:
    """A quantized convolution; with uint8 the same one, its codes shifted by 128."""
    return onnx_model(_nodes(), {"x": (1, 1, 5, 6)}, {"y": (1, 2, 3, 4)}, _constants(*request.param))


def test_ranges_are_those_of_the_quantizers(convolution: onnx.ModelProto) -> None:
    _, ranges = qdq.split(convolution)
    assert ranges == {
        "x": Range((0.5,), (-3,)),
        "w_real": Range((0.5, 0.125), (0, 0), axis=0),
        "y": Range((0.25,), (7,)),
    }


def test_the_float_graph_computes_with_dequantized_weights(convolution: onnx.ModelProto, run_onnx: Run) -> None:
    floats, _ = qdq.split(convolution)
    assert [node.op_type for node in floats.graph.node] == ["Conv"]
    assert not qdq.is_quantized(floats)
    entry = np.random.default_rng(1).standard_normal((4, 1, 5, 6)).astype(np.float32)
    constants = _constants(np.int8, 0)
    weight = constants["w_codes"].astype(np.float64) * WEIGHT.reshape(2, 1, 1, 1)
    bias = torch.tensor(constants["bias"]).double()
    expected = F.conv2d(torch.tensor(entry).double(), torch.tensor(weight), bias).numpy()
    assert np.allclose(run_onnx(floats, entry), expected, rtol=1e-5, atol=1e-4)


def test_names_of_inputs_and_outputs_stay(convolution: onnx.ModelProto) -> None:
    floats, _ = qdq.split(convolution)
    assert [item.name for item in floats.graph.input] == ["x"]
    assert [item.name for item in floats.graph.output] == ["y"]
    onnx.checker.check_model(floats, full_check=True)


def test_constants_that_nothing_uses_are_gone(convolution: onnx.ModelProto) -> None:
    floats, _ = qdq.split(convolution)
    assert set(onnx_file.constants(floats)) == {"w_real", "bias"}


def test_the_argument_is_left_alone(convolution: onnx.ModelProto) -> None:
    before = convolution.SerializeToString()
    qdq.split(convolution)
    assert convolution.SerializeToString() == before


def test_a_quantizer_without_a_zero_point_is_unsigned(onnx_model: Build) -> None:
    """ONNX's default is uint8 with zero point 0, which is -128 on the signed grid."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["real"]),
        helper.make_node("Relu", ["real"], ["y"]),
    ]
    _, ranges = qdq.split(onnx_model(nodes, {"x": (1, 4)}, {"y": (1, 4)}, {"scale": np.float32(0.5)}))
    assert ranges == {"x": Range((0.5,), (-128,))}


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DequantizeLinear"])
def test_a_computed_scale_is_refused(onnx_model: Build, kind: str) -> None:
    """As dynamic quantization makes it: the range is that of the input at hand, and nothing can be shipped."""
    entry, constants = ("x", {}) if kind == "QuantizeLinear" else ("codes", {"codes": np.zeros((1, 4), np.int8)})
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["scale"], keepdims=0),
        helper.make_node(kind, [entry, "scale"], ["middle"], name="offender"),
        *([helper.make_node("DequantizeLinear", ["middle", "scale"], ["y"])] if kind == "QuantizeLinear" else []),
        *([helper.make_node("Add", ["x", "middle"], ["y"])] if kind == "DequantizeLinear" else []),
    ]
    model = onnx_model(nodes, {"x": (1, 4)}, {"y": (1, 4)}, constants)
    with pytest.raises(ConversionError, match=rf"{kind} 'offender': its scale is computed"):
        qdq.split(model)


def test_several_readers_of_a_quantized_tensor(onnx_model: Build, run_onnx: Run) -> None:
    """A skip connection: one quantizer, two dequantizers, and both readers read the float tensor."""
    nodes = [
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["one"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["two"]),
        helper.make_node("Mul", ["one", "two"], ["y"]),
    ]
    constants = {"scale": np.float32(0.5), "zero": np.int8(-128)}
    floats, ranges = qdq.split(onnx_model(nodes, {"x": (1, 3)}, {"y": (1, 3)}, constants))
    assert ranges == {"relu": Range((0.5,), (-128,))}
    assert run_onnx(floats, np.array([[-1, 0.3, 2]], np.float32)).tolist() == [[0, pytest.approx(0.09), 4]]


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        (Range((0.5,), (-3,)), [[-62.5, 1.5], [2.0, 65.0]]),
        (Range((0.5, 2.0), (0, 0), axis=0), [[-64.0, 0.0], [2.0, 254.0]]),
        (Range((0.5, 2.0), (0, 0), axis=1), [[-64.0, 0.0], [0.5, 254.0]]),
    ],
    ids=["per tensor", "axis 0", "axis 1"],
)
def test_dequantize(range_: Range, expected: list[list[float]]) -> None:
    found = qdq.dequantize(np.array([[-128, 0], [1, 127]], np.int8), range_)
    assert found.dtype == np.float32
    assert found.tolist() == expected


@pytest.mark.parametrize("value", [np.uint8(3), np.array([1.0], np.float32), np.zeros((2, 0), np.int64)], ids=repr)
def test_replaced_constants_keep_their_shape(onnx_model: Build, value: NDArray[Any]) -> None:
    """A zero point must stay a scalar: onnxruntime's QLinearAdd accepts no other."""
    model = onnx_model(
        [helper.make_node("Identity", ["constant"], ["y"])], {"x": (1,)}, {"y": (1,)}, {"constant": np.float32(0)}
    )
    onnx_file.replace_initializers(model, {"constant": value, "unused": np.ones(3)})
    (found,) = onnx_file.constants(model).values()
    assert (found.shape, found.dtype, found.tolist()) == (value.shape, value.dtype, value.tolist())


def test_a_number_is_an_input_with_a_default(onnx_model: Build, run_onnx: Run) -> None:
    """So no converter folds it into weights; it has as many dimensions as what it is multiplied with."""
    nodes = [
        *_nodes(),
        helper.make_node("DequantizeLinear", ["n_codes", "n_scale", "n_zero"], ["number"]),
        helper.make_node("Mul", ["y", "number"], ["z"]),
    ]
    constants = _constants(np.int8, 0) | {
        "n_codes": np.array([[[3]], [[-5]]], np.int8),
        "n_scale": np.float32(0.5),
        "n_zero": np.int8(1),
    }
    model = onnx_model(nodes, {"x": (1, 1, 5, 6)}, {"z": (1, 2, 3, 4)}, constants)
    model.graph.value_info.append(helper.make_tensor_value_info("conv", onnx.TensorProto.FLOAT, (1, 2, 3, 4)))
    floats, ranges = qdq.split(model)
    assert [item.name for item in floats.graph.input] == ["x", "number"]
    assert onnx_file.constants(floats)["number"].tolist() == [[[[1.0]], [[-3.0]]]]
    assert ranges["number"] == Range((0.5,), (1,))
    onnx.checker.check_model(floats, full_check=True)
    entry = np.random.default_rng(1).standard_normal((1, 1, 5, 6)).astype(np.float32)
    plain, _ = qdq.split(onnx_model(_nodes(), {"x": (1, 1, 5, 6)}, {"y": (1, 2, 3, 4)}, _constants(np.int8, 0)))
    expected = run_onnx(plain, entry) * np.array([1, -3], np.float32).reshape(2, 1, 1)
    assert np.array_equal(run_onnx(floats, entry), expected)
