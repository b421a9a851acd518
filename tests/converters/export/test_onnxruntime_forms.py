"""Single operations in the form of ONNX Runtime's integer kernels: the same codes, and no float without need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper, shape_inference

from torchshrink.converters.export import onnxruntime_int8

Build = Callable[..., onnx.ModelProto]
Run = Callable[..., NDArray[Any]]

CONSTANTS = {"scale": np.float32(0.05), "zero": np.int8(3), "y_scale": np.float32(0.04), "y_zero": np.int8(-20)}
SHAPE = (1, 2, 4, 6)


def pair(source: str, target: str, scale: str, zero_point: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero_point], [f"{target}_codes"]),
        helper.make_node("DequantizeLinear", [f"{target}_codes", scale, zero_point], [target]),
    ]


@pytest.fixture
def one(onnx_model: Build) -> Build:
    """Build ``quantize -> node -> quantize`` on ``[1, 2, 4, 6]``; the second grid is the first where asked for."""

    def build(*middle: NodeProto, same_grid: bool = False, **constants: Any) -> onnx.ModelProto:
        after = ("scale", "zero") if same_grid else ("y_scale", "y_zero")
        nodes = [*pair("x", "real", "scale", "zero"), *middle, *pair(middle[-1].output[0], "y", *after)]
        rank, shape = 2 if constants.pop("flat", False) else 4, constants.pop("shape", SHAPE)
        used = {name for each in nodes for name in each.input}
        values = {name: value for name, value in (CONSTANTS | constants).items() if name in used}
        return shape_inference.infer_shapes(onnx_model(nodes, {"x": shape}, {"y": (1, *[None] * (rank - 1))}, values))

    return build


@pytest.fixture
def entry() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 2, (3, *SHAPE[1:])).astype(np.float32)


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 6.0), (-0.33, 0.77), (1.0, 2.0)])
def test_a_clamp_is_one_of_codes(one: Build, run_onnx: Run, entry: Any, low: float, high: float) -> None:
    node = helper.make_node("Clip", ["real", "low", "high"], ["clipped"])
    model = one(node, low=np.float32(low), high=np.float32(high))
    rewritten = onnxruntime_int8.rewrite(model)
    assert [node.op_type for node in rewritten.graph.node][-2:] == ["Clip", "DequantizeLinear"]
    expected = run_onnx(model, entry)
    assert np.array_equal(run_onnx(rewritten, entry), expected)
    assert np.array_equal(run_onnx(rewritten, entry, optimized=True), expected)


@pytest.mark.parametrize("follows_quantization", [False, True])
def test_a_clamp_where_quantization_cuts(one: Build, run_onnx: Run, entry: Any, follows_quantization: bool) -> None:
    """It is left out, but where ONNX Runtime would make one quantization of the two around it."""
    source = "real" if follows_quantization else "negative"
    nodes = [
        helper.make_node("Neg", ["real"], ["negative"]),
        helper.make_node("Clip", [source, "low", "high"], ["cut"]),
    ]
    # Codes -128 to 127 stand for 0.04 * -108 to 0.04 * 147.
    model = one(*nodes[follows_quantization:], low=np.float32(-4.32), high=np.float32(5.88))
    rewritten = onnxruntime_int8.rewrite(model)
    assert kinds(rewritten)["Clip"] == follows_quantization
    assert np.array_equal(run_onnx(rewritten, entry, optimized=True), run_onnx(model, entry))


@pytest.mark.parametrize(("shape", "axis"), [((1, 2, 4, 1), -1), ((1, 2, 1, 6), 2), ((1, 2, 4, 2), -1)])
def test_a_softmax_of_one_value(one: Build, run_onnx: Run, shape: tuple[int, ...], axis: int) -> None:
    """It is one: ONNX Runtime's integer kernel says zero."""
    grid = {"y_scale": np.float32(1 / 256), "y_zero": np.int8(-128)}
    model = one(helper.make_node("Softmax", ["real"], ["shares"], axis=axis), shape=shape, **grid)
    rewritten = onnxruntime_int8.rewrite(model)
    assert kinds(rewritten)["Softmax"] == (shape[axis] > 1)
    entry = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    found, expected = run_onnx(rewritten, entry, optimized=True), run_onnx(model, entry)
    assert np.abs(found - expected).max() <= 1 / 256


def test_a_clamp_of_computed_limits_is_left_alone(one: Build) -> None:
    node = helper.make_node("Clip", ["real", "", "high"], ["clipped"])
    rewritten = onnxruntime_int8.rewrite(one(node, high=np.float32(1)))
    assert [node.op_type for node in rewritten.graph.node][-3:] == ["Clip", "QuantizeLinear", "DequantizeLinear"]


@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_padding_of_codes(one: Build, run_onnx: Run, entry: Any, value: float | None) -> None:
    inputs = ["real", "pads"] if value is None else ["real", "pads", "value"]
    node = helper.make_node("Pad", inputs, ["padded"])
    model = one(node, same_grid=True, pads=np.array([0, 0, 1, 0, 0, 0, 2, 3]), value=np.float32(value or 0))
    rewritten = onnxruntime_int8.rewrite(model)
    assert [node.op_type for node in rewritten.graph.node] == ["QuantizeLinear", "Pad", "DequantizeLinear"]
    expected = run_onnx(model, entry)
    assert expected.shape == (3, 2, 7, 9)
    assert expected[0, 0, 0, 0] == pytest.approx(value or 0)
    assert np.array_equal(run_onnx(rewritten, entry, optimized=True), expected)


def test_reflection_of_codes(one: Build, run_onnx: Run, entry: Any) -> None:
    node = helper.make_node("Pad", ["real", "pads"], ["padded"], mode="reflect")
    model = one(node, same_grid=True, pads=np.array([0, 0, 1, 2, 0, 0, 1, 2]))
    rewritten = onnxruntime_int8.rewrite(model)
    assert [node.op_type for node in rewritten.graph.node] == ["QuantizeLinear", "Pad", "DequantizeLinear"]
    assert np.array_equal(run_onnx(rewritten, entry, optimized=True), run_onnx(model, entry))


def test_padding_to_another_grid_is_left_alone(one: Build, run_onnx: Run, entry: Any) -> None:
    model = one(helper.make_node("Pad", ["real", "pads"], ["padded"]), pads=np.array([0, 0, 1, 0, 0, 0, 2, 3]))
    rewritten = onnxruntime_int8.rewrite(model)
    assert kinds(rewritten)["QuantizeLinear"] == 2
    assert np.array_equal(run_onnx(rewritten, entry), run_onnx(model, entry))


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_of_all_positions(one: Build, run_onnx: Run, entry: Any, axes: list[int], keepdims: int) -> None:
    node = helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=keepdims)
    model = one(node, axes=np.array(axes), flat=not keepdims, y_scale=np.float32(0.02))
    rewritten = onnxruntime_int8.rewrite(model)
    assert (kinds(rewritten)["GlobalAveragePool"], kinds(rewritten)["ReduceMean"]) == (1, 0)
    expected = run_onnx(model, entry)
    assert expected.shape == ((3, 2, 1, 1) if keepdims else (3, 2))
    found = run_onnx(rewritten, entry, optimized=True)
    assert np.abs(found - expected).max() <= 0.02 * 1.001  # a sum on a rounding border
    assert np.array_equal(run_onnx(rewritten, entry), expected)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("ReduceMean", ["real", "axes"], ["middle"], "middle"),
        helper.make_node("Pad", ["real", "edges"], ["middle"], "middle"),
    ],
    ids=["mean", "padding"],
)
def test_what_is_quantized_twice_becomes_two_nodes_of_two_names(
    onnx_model: Build, run_onnx: Run, entry: Any, node: NodeProto
) -> None:
    """ONNX Runtime refuses two of one name."""
    ends = [each for end in "yz" for each in pair("middle", end, "scale", "zero")]
    nodes = [*pair("x", "real", "scale", "zero"), node, *ends, helper.make_node("Add", ["y", "z"], ["sum"])]
    constants = CONSTANTS | {"axes": np.array([2, 3]), "edges": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    used = {name: value for name, value in constants.items() if any(name in each.input for each in nodes)}
    model = shape_inference.infer_shapes(onnx_model(nodes, {"x": SHAPE}, {"sum": (1, 2, None, None)}, used))
    assert np.array_equal(run_onnx(onnxruntime_int8.rewrite(model), entry), run_onnx(model, entry))


@pytest.mark.parametrize("axes", [[1], [2], [1, 2, 3]])
def test_a_mean_of_something_else_is_left_alone(one: Build, axes: list[int]) -> None:
    node = helper.make_node("ReduceMean", ["real", "axes"], ["mean"])
    assert kinds(onnxruntime_int8.rewrite(one(node, axes=np.array(axes))))["ReduceMean"] == 1


def test_linear_resizing_rounds(one: Build, run_onnx: Run, entry: Any) -> None:
    """The integer kernel of ONNX Runtime 1.23 cuts off, that of 1.32 rounds: files have to be right in both."""
    node = helper.make_node("Resize", ["real", "", "factors"], ["resized"], mode="linear")
    model = one(node, same_grid=True, factors=np.array([1, 1, 2, 2], np.float32))
    expected = run_onnx(model, entry)
    unsigned = onnxruntime_int8.rewrite(one(node, same_grid=True, factors=np.array([1, 1, 2, 2], np.float32)))
    assert kinds(unsigned)["Max"] == 1
    assert np.array_equal(run_onnx(unsigned, entry, optimized=True), expected)
    (barrier,) = [node for node in unsigned.graph.node if node.op_type == "Max"]
    for other in unsigned.graph.node:
        other.input[:] = [barrier.input[0] if name == barrier.output[0] else name for name in other.input]
    unsigned.graph.node.remove(barrier)
    if onnxruntime.__version__.startswith("1.23."):
        assert (run_onnx(unsigned, entry, optimized=True) != expected).mean() > 0.2


def test_nearest_resizing_stays_of_codes(one: Build) -> None:
    node = helper.make_node("Resize", ["real", "", "factors"], ["resized"], mode="nearest")
    model = one(node, same_grid=True, factors=np.array([1, 1, 2, 2], np.float32))
    assert kinds(onnxruntime_int8.rewrite(model))["Max"] == 0


def test_a_float_layer_stays_float(one: Build, run_onnx: Run, entry: Any) -> None:
    """ONNX Runtime quantizes the weights of a convolution between quantized tensors unless something is between."""
    weights = np.random.default_rng(1).normal(0, 1, (2, 2, 1, 1)).astype(np.float32)
    node = helper.make_node("Conv", ["real", "weights"], ["sum"], kernel_shape=[1, 1])
    model = one(node, weights=weights)
    rewritten = onnxruntime_int8.rewrite(model)
    assert kinds(rewritten)["Max"] == 1
    expected = run_onnx(model, entry)
    assert np.array_equal(run_onnx(rewritten, entry, optimized=True), expected)


@pytest.mark.parametrize("kind", ["Add", "Mul"])
@pytest.mark.parametrize("shape", [(1,), (1, 2, 1, 1)])
def test_constants_have_the_type_of_what_they_meet(
    one: Build, run_onnx: Run, entry: Any, kind: str, shape: tuple[int, ...]
) -> None:
    node = helper.make_node(kind, ["real", "number"], ["result"])
    codes = np.arange(np.prod(shape)).reshape(shape).astype(np.int8) - 5
    number = helper.make_node("DequantizeLinear", ["codes", "c_scale", "c_zero"], ["number"])
    model = one(number, node, codes=codes, c_scale=np.float32(0.1), c_zero=np.int8(-7))
    rewritten = onnxruntime_int8.rewrite(model)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in rewritten.graph.initializer}
    (constant,) = [
        node for node in rewritten.graph.node if "DequantizeLinear" in node.op_type and node.input[0] in arrays
    ]
    assert np.array_equal(arrays[constant.input[0]], codes.astype(np.int16) + 128)
    assert arrays[constant.input[2]] == 121
    expected = run_onnx(model, entry)
    assert np.array_equal(run_onnx(rewritten, entry), expected)
    assert np.abs(run_onnx(rewritten, entry, optimized=True) - expected).max() <= 0.04 * 1.001
