"""Layers that saturate on x86 without VNNI are found in the weights of any file, on any machine."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from program import call

from torchshrink.cli.verify import _said_of_saturation
from torchshrink.converters.proof.saturation import Saturation, find_saturation

ACTIVATION = [("s", np.float32(0.1)), ("z", np.uint8(3))]


def graph(nodes: list[onnx.NodeProto], arrays: dict[str, Any]) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    stored = [numpy_helper.from_array(np.array(value), name) for name, value in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], stored))


def between(kind: str, weight: np.ndarray, **settings: Any) -> onnx.ModelProto:
    """One operation between quantize and dequantize nodes, as exporters of all tools write it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node(kind, ["d", "wd"], ["y"], "layer", **settings),
    ]
    return graph(nodes, {**dict(ACTIVATION), "w": weight})


def conv(first: int, second: int, inputs: int = 2) -> np.ndarray:
    """Three output channels, of which the second begins with two neighbours."""
    weight = np.zeros((3, inputs, 1, 3), np.int8)
    weight[1, 0, 0, 0], weight[1, 1, 0, 0] = first, second
    return weight


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(64, 64, 0), (64, 65, 1), (-64, -64, 0), (-64, -65, 1), (127, -127, 0), (127, 127, 1), (127, 1, 0), (127, 2, 1)],
)
def test_the_bound(first: int, second: int, expected: int) -> None:
    assert len(find_saturation(between("Conv", conv(first, second)))) == expected
    # 255 * 64 + 255 * 64 = 32640 fits into 16 bits, 255 * 64 + 255 * 65 = 32895 does not.
    assert (255 * (first + second) > 32767 or 255 * (first + second) < -32768) == bool(expected)


def test_what_is_said_of_a_layer() -> None:
    assert find_saturation(between("Conv", conv(127, 127))) == [Saturation("layer", 1, 3)]


def test_verify_names_them_in_any_file(tmp_path: Path) -> None:
    onnx.save(between("Conv", conv(127, 127)), str(tmp_path / "theirs.onnx"))
    said = " ".join(call("verify", tmp_path / "theirs.onnx").stdout.split())
    assert "1 layer can saturate, and comes out wrong, on x86 without VNNI: layer (1 of 3 channels); quantize" in said


def test_many_are_counted() -> None:
    said = _said_of_saturation([Saturation(f"l{place}", 1, 3) for place in range(7)])
    assert said.startswith("7 layers can saturate, and come out wrong")
    assert "l4 (1 of 3 channels) and 2 more (--json lists all)" in said


def test_neighbours_are_input_channels_of_one_position() -> None:
    weight = np.zeros((1, 2, 1, 3), np.int8)
    weight[0, 0, 0, :2] = 127  # neighbours in the file, not in the kernel
    assert find_saturation(between("Conv", weight)) == []


def test_neighbours_of_a_product() -> None:
    down = np.zeros((4, 3), np.int8)
    down[0, 2] = down[1, 2] = 100
    assert find_saturation(between("MatMul", down)) == [Saturation("layer", 1, 3)]
    assert find_saturation(between("Gemm", down)) == [Saturation("layer", 1, 3)]
    assert find_saturation(between("Gemm", down.T.copy(), transB=1)) == [Saturation("layer", 1, 3)]
    assert find_saturation(between("MatMul", np.roll(down, 1, axis=0))) == []


def test_what_other_kernels_compute() -> None:
    unsigned = np.full((3, 2, 1, 3), 255, np.uint8)
    assert find_saturation(between("Conv", unsigned)) == []
    depthwise = np.full((4, 1, 3, 3), 127, np.int8)
    assert find_saturation(between("Conv", depthwise, group=4)) == []
    assert find_saturation(between("Conv", depthwise)) == [Saturation("layer", 4, 4)]
    assert find_saturation(between("ConvTranspose", conv(127, 127))) == []


@pytest.mark.parametrize("kind", ["QLinearConv", "QLinearMatMul"])
def test_integer_operators_of_other_tools(kind: str) -> None:
    weight = conv(127, 127) if kind == "QLinearConv" else np.full((4, 3), 100, np.int8)
    inputs = ["q", "s", "z", "w", "s", "zw", "s", "z"]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node(kind, inputs, ["y"], "layer")]
    found = find_saturation(graph(nodes, {**dict(ACTIVATION), "w": weight, "zw": np.int8(0)}))
    assert [each.layer for each in found] == ["layer"]


@pytest.mark.parametrize("is_per_channel", [False, True])
def test_float_weights_behind_a_quantize_node(is_per_channel: bool) -> None:
    """As tools that train for int8 write them; ONNX Runtime computes the codes when it loads the file."""
    model = between("Conv", conv(127, 127))
    scale = np.full(3, 0.5, np.float32) if is_per_channel else np.float32(0.5)
    stored = {"f": conv(127, 127) * np.float32(0.5), "ws": scale, "wz": np.zeros(scale.shape, np.int8)}
    for name, value in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    quantize = helper.make_node("QuantizeLinear", ["f", "ws", "wz"], ["fq"], axis=0)
    model.graph.node.insert(0, quantize)
    model.graph.node[3].input[:] = ["fq", "ws", "wz"]
    assert find_saturation(model) == [Saturation("layer", 1, 3)]


def test_weights_in_constant_nodes() -> None:
    model = between("Conv", conv(127, 127))
    (stored,) = (item for item in model.graph.initializer if item.name == "w")
    model.graph.initializer.remove(stored)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=stored))
    assert find_saturation(model) == [Saturation("layer", 1, 3)]


@pytest.mark.parametrize("kind", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_products_of_onnx_runtime_itself(kind: str) -> None:
    node = helper.make_node(kind, ["x", "w", "s"], ["y"], "layer", domain="com.microsoft")
    found = find_saturation(graph([node], {**dict(ACTIVATION), "w": np.full((4, 3), 100, np.int8)}))
    assert [each.layer for each in found] == ["layer"]


def test_a_float_file() -> None:
    assert find_saturation(graph([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": np.ones((1, 1, 1, 1))})) == []
