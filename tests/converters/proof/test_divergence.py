"""A file with one wrong layer: both sides of the place are named, and cut out for someone else to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from torchshrink.converters import tflite_file
from torchshrink.converters.proof import divergence, repro
from torchshrink.converters.proof.divergence import Divergence

CONVOLUTIONS = {"CONV_2D", "TRANSPOSE_CONV"}
LAYERS = [0, 3, 5, 7]  # the first, one in the middle, one after a transposed convolution, the last
QUARTER = 0.25


def _negate_in_tflite(path: Path, layer: int, target: Path) -> str:
    """Turn the signs of a layer's weights around and return the name of its result."""
    model = tflite_file.read(path)
    graph = model.subgraphs[0]
    operator = [each for each in graph.operators if tflite_file.op_name(model, each) in CONVOLUTIONS][layer]
    weight = graph.tensors[operator.inputs[1]]
    values = -np.array(tflite_file.constant(model, weight))
    model.buffers[weight.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    tflite_file.write(model, target)
    return tflite_file.tensor_name(graph.tensors[operator.outputs[0]])


def _negate_in_onnx(path: Path, layer: int, target: Path) -> None:
    model = onnx.load(str(path))
    producers = {name: node for node in model.graph.node for name in node.output}
    name = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")][layer].input[1]
    while name in producers:
        name = producers[name].input[0]
    item = next(item for item in model.graph.initializer if item.name == name)
    item.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(item), name))
    onnx.save(model, str(target))


def _results(model: onnx.ModelProto) -> list[str]:
    """Return what each convolution's result is called, after the ReLU or sigmoid that follows it."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            following = [each for each in users[node.output[0]] if each.op_type == "Relu"]
            found.append((following or [node])[0].output[0])
    return found


def _source(unet: Any, precision: str) -> onnx.ModelProto:
    model: onnx.ModelProto = unet.generic if precision == "int8" else unet.floats
    return model


def _runs(folder: Path, run: Any) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Return what ONNX Runtime makes of a repro, and what was written beside it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / repro.MODEL), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, dict(np.load(folder / repro.INPUTS)))
    return result, dict(np.load(folder / repro.OUTPUTS))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tflite_file_is_named_on_both_sides(unet2d: Any, tmp_path: Path, precision: str, layer: int) -> None:
    broken = tmp_path / "broken.tflite"
    file_tensor = _negate_in_tflite(unet2d.path(f"tflite-{precision}"), layer, broken)
    source = _source(unet2d, precision)
    found = divergence.first(broken, source, unet2d.inputs[:1])
    assert found is not None
    assert found.tensor == _results(source)[layer]
    assert found.operation in ("Relu", "Conv", "ConvTranspose")
    assert found.file_operation in CONVOLUTIONS
    assert found.file_tensor == file_tensor
    assert found.error > found.allowed
    assert str(found).startswith(f"{found.operation} {found.tensor} (in the file {found.file_operation} {file_tensor}")


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-int8", "onnx-fp32", "onnx-int8"])
def test_the_repro_computes_what_the_source_does(unet2d: Any, tmp_path: Path, name: str, layer: int) -> None:
    """In ONNX Runtime, with the layer's constants, from what was stored as its inputs."""
    kind, precision = name.split("-")
    broken = tmp_path / f"broken.{kind}"
    (_negate_in_tflite if kind == "tflite" else _negate_in_onnx)(unet2d.path(name), layer, broken)
    source = _source(unet2d, precision)
    model = unet2d.quantized if precision == "int8" else unet2d.model
    found = divergence.first(broken, source, unet2d.inputs[:1], model)
    assert found is not None
    assert repro.write(found, source, unet2d.inputs[:1], tmp_path)
    part = onnx.load(str(tmp_path / repro.MODEL))
    kinds = [node.op_type for node in part.graph.node]
    assert sum(each in ("Conv", "ConvTranspose") for each in kinds) == 1
    result, stored = _runs(tmp_path, found)
    step = found.allowed / 3 if precision == "int8" else 0.0
    np.testing.assert_array_equal(stored["source"], found.expected)
    assert np.abs(result - stored["source"]).max() <= max(1.01 * step, 1e-5)
    assert divergence.distance(result, stored["converted"]) > found.allowed


def test_an_unharmed_file_has_no_divergence(unet: Any) -> None:
    for name in ("tflite-fp32", "tflite-int8", "onnx-fp32", "onnx-int8"):
        kind = name.split("-")[1]
        model = unet.quantized if kind == "int8" else unet.model
        assert divergence.first(unet.path(name), _source(unet, kind), unet.inputs[:1], model) is None


def test_a_tensor_that_the_graph_does_not_have_cannot_be_cut_out(unet2d: Any, tmp_path: Path) -> None:
    values = np.zeros(1, np.float32)
    found = Divergence("Relu", "elsewhere", None, None, np.inf, 0.1, values, None)
    assert str(found) == "Relu elsewhere (no tensor of the file has as many values)"
    assert not repro.write(found, _source(unet2d, "fp32"), unet2d.inputs[:1], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_begins_where_values_are_known(onnx_model: Any, run_onnx: Any) -> None:
    """By hand: ``(x + 1) * 2 * 3``, from the sum on."""
    model = onnx_model(
        [
            helper.make_node("Add", ["x", "one"], ["sum"]),
            helper.make_node("Mul", ["sum", "two"], ["double"]),
            helper.make_node("Mul", ["double", "three"], ["y"]),
        ],
        {"x": [1, 2]},
        {"y": [1, 2]},
        {name: np.float32(value) for name, value in (("one", 1), ("two", 2), ("three", 3))},
    )
    start = np.array([[QUARTER, 1]], np.float32)
    part = repro.cut(model, "y", {"x": start, "sum": start})
    assert [node.op_type for node in part.graph.node] == ["Mul", "Mul"]
    assert [item.name for item in part.graph.input] == ["sum"]
    assert sorted(item.name for item in part.graph.initializer) == ["three", "two"]
    assert run_onnx(part, start).tolist() == [[6 * QUARTER, 6]]
