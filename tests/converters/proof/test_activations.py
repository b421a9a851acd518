"""The activations of files: of one written by hand counted by hand, of a U-Net's against its inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.converters.bridge import Bridge
from torchshrink.converters.proof import activations
from torchshrink.pipeline import artefacts
from torchshrink.report.activations import Reader

FIRST, SECOND = (0.5, 0), (0.25, -128)  # scale, zero point: -64 to 63.5, and 0 to 63.75


class Doubled(nn.Module):
    """quantize, double, ReLU, quantize."""

    def forward(self, x: Tensor) -> Tensor:
        return self._rounded(torch.relu(2 * self._rounded(x, *FIRST)), *SECOND)

    def _rounded(self, x: Tensor, scale: float, zero_point: int) -> Tensor:
        settings = (scale, zero_point, -128, 127, torch.int8)
        operations = torch.ops.quantized_decomposed
        return operations.dequantize_per_tensor(operations.quantize_per_tensor(x, *settings), *settings)


def graph() -> GraphModule:
    import torch.ao.quantization.fx._decomposed  # registers the operations

    return torch.export.export(Doubled(), (torch.zeros(1, 1, 4),)).module()


def save(path: Path, second: tuple[float, int] = SECOND) -> Path:
    constants: dict[str, Any] = {"two": np.float32(2)}
    nodes = []
    for name, (scale, zero_point) in (("x", FIRST), ("relu", second)):
        constants |= {f"{name}.s": np.float32(scale), f"{name}.z": np.int8(zero_point)}
        ends = [f"{name}.s", f"{name}.z"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *ends], [f"{name}.dq"]))
    nodes[2:2] = [helper.make_node("Mul", ["x.dq", "two"], ["m"]), helper.make_node("Relu", ["m"], ["relu"])]
    shape = [1, 1, 4]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", "relu.dq")]
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "graph", *ends, arrays)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def counts(found: Any) -> dict[int, int]:
    return {int(index) - 128: int(found[index]) for index in np.flatnonzero(found)}


def test_values_of_a_tiny_model_by_hand(tmp_path: Path) -> None:
    # rounded to halves: -1, 1, 10, 63.5 (70 is clipped), and for the second sample 0, 0, 0.5, 30
    inputs = torch.tensor([[[-1.1, 1.2, 10.0, 70.0]], [[0.0, 0.1, 0.4, 30.0]]])
    first, second = activations.read(save(tmp_path / "m.onnx"), graph(), inputs)
    assert (first.name, first.scale, first.zero_point) == ("input", *FIRST)
    assert (second.name, second.layer, second.scale, second.zero_point) == ("relu", "", *SECOND)
    assert counts(first.codes) == {-2: 1, 0: 2, 1: 1, 2: 1, 20: 1, 60: 1, 127: 1}
    assert first.clipped == 1 / 8
    # doubled and at least 0, from what was rounded: 0, 2, 20, 127 (clipped at 63.75); 0, 0, 1, 60
    assert counts(second.codes) == {-128: 3, -124: 1, -120: 1, -48: 1, 112: 1, 127: 1}
    # in float nothing is rounded before: 0, 2.4, 20, 140; 0, 0.2, 0.8, 60. Quarters are codes: 0, 1, 3 and 10, 80, 240
    assert second.clipped == 1 / 8
    bins = {int(index): int(second.floats[index]) for index in np.flatnonzero(second.floats)}
    assert bins == {16: 4, 16 + 2: 1, 16 + 20: 1, 16 + 60: 1, 95: 1}


def test_tensors_that_the_file_rounds_otherwise_are_left_out(tmp_path: Path) -> None:
    inputs = torch.tensor([[[-1.1, 1.2, 10.0, 70.0]]])
    found = activations.read(save(tmp_path / "m.onnx", (0.2, -128)), graph(), inputs)
    assert [each.name for each in found] == ["input"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tflite-int8", "tflite-int8-sparse", "onnx-int8"])
def test_first_and_last_tensor_of_a_network(unet: Any, name: str) -> None:
    found = Bridge().activations(unet.path(name), unet.quantized, unet.inputs)
    assert 6 <= len(found) <= activations.MOST
    inputs = unet.inputs[: activations.SAMPLES].numpy()
    first, last = found[0], found[-1]
    codes = np.clip(np.rint(inputs / np.float32(first.scale)) + first.zero_point, -128, 127)
    np.testing.assert_array_equal(first.codes, np.bincount(codes.astype(int).ravel() + 128, minlength=256))
    assert first.name == "input"
    assert (last.scale, last.zero_point) == (1 / 256, -128)  # a sigmoid's
    outputs = np.sort(np.rint(unet.outputs(name)[: activations.SAMPLES] * 256).ravel())
    # In order: an interpreter without XNNPACK rounds a few values the other way.
    assert np.abs(np.repeat(np.arange(256), last.codes) - outputs).mean() < 0.2
    for each in found:
        assert each.floats.sum() == each.codes.sum()
        assert 0 <= each.clipped <= 1
    assert all(each.layer for each in found[1:])


def test_distance_of_histograms() -> None:
    moved, rest = np.zeros(256, np.int64), np.zeros(256, np.int64)
    moved[[3, 10]], rest[[4, 10]] = (1, 3), (1, 3)  # one of four values by one code
    assert activations._distance(moved, rest) == 0.25


def test_the_bridge_is_one_that_looks_inside() -> None:
    assert isinstance(Bridge(), Reader)
    assert quantize.is_quantized(graph())
    assert hasattr(artefacts.Bridge, "weights")
