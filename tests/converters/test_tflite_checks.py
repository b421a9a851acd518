"""TFLite files whose parts do not fit each other: refused by a sentence, before anything runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy import tflite_operations
from torchshrink.converters.anatomy.inspect import inspect
from torchshrink.converters.contents import input_shape
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import ModelError


def model() -> Any:
    """Two additions in a row: x + x = y, y + c = z."""
    found, graph = schema.ModelT(), schema.SubGraphT()
    found.version, found.subgraphs, found.metadata = 3, [graph], []
    found.buffers, found.operatorCodes = [schema.BufferT(), schema.BufferT()], []
    found.buffers[1].data = np.arange(3, dtype=np.float32).view(np.uint8)
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [2]
    for name, buffer in (("x", 0), ("y", 0), ("z", 0), ("c", 1)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, [1, 3], buffer, schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    code = tflite_file.opcode(found, schema.BuiltinOperator.ADD)
    for inputs, outputs in (([0, 0], [1]), ([1, 3], [2])):
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
        graph.operators.append(operator)
    return found


def setting(path: str, value: Any) -> Callable[[Any], None]:
    """Return what sets a part of the main graph, such as ``operators.0.inputs``."""

    def change(whole: Any) -> None:
        *parts, last = path.split(".")
        place = whole.subgraphs[0]
        for part in parts:
            place = place[int(part)] if part.isdecimal() else getattr(place, part)
        setattr(place, last, value)

    return change


def quantized(scales: int, zero_points: int) -> Any:
    grid = schema.QuantizationParametersT()
    grid.scale, grid.zeroPoint = [0.5] * scales, [0] * zero_points
    return grid


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            setting("operators.0.inputs", [0, 2]),
            "operator 0 reads tensor 2 before it is computed: its graph is a cycle",
        ),
        (setting("operators.0.inputs", [1, 0]), "operator 0 reads tensor 1 before"),
        (setting("operators.0.inputs", [0, 4]), "an input of operator 0 is 4, of 4"),
        (setting("operators.0.inputs", [0, -2]), "an input of operator 0 is -2"),
        (setting("operators.1.outputs", [-1]), "an output of operator 1 is -1"),
        (setting("operators.1.opcodeIndex", 9), "the code of operator 1 is 9, of 1"),
        (setting("tensors.3.buffer", 77), "the buffer of tensor 3 is 77, of 2"),
        (setting("tensors.3.shape", [1, 4]), "tensor 3 of shape [1, 4] has 12 bytes, not 16"),
        (setting("tensors.0.shape", [1, -3]), "tensor 0 has the shape [1, -3]"),
        (setting("tensors.0.shape", [2**30, 2**30]), "tensor 0 has the shape"),
        (setting("tensors.0.quantization", quantized(2, 1)), "tensor 0 has 2 scales and 1 zero points"),
        (setting("inputs", [12]), "one of its inputs is 12"),
        (lambda whole: setattr(whole, "subgraphs", []), "it has no subgraphs"),
        (lambda whole: setattr(whole, "buffers", []), "it has no buffers"),
    ],
)
def test_damaged(change: Callable[[Any], None], words: str) -> None:
    whole = model()
    change(whole)
    with pytest.raises(ModelError) as caught:
        tflite_file.parse(tflite_file.pack(whole), "m.tflite")
    assert f"m.tflite is damaged ({words}" in str(caught.value)


def test_sound(tmp_path: Path) -> None:
    tflite_file.write(model(), tmp_path / "m.tflite")
    operations, _ = tflite_operations.read(tflite_file.read(tmp_path / "m.tflite"))
    assert [item.label for item in operations] == ["ADD y", "ADD z"]


def test_names_that_are_no_text() -> None:
    content = tflite_file.pack(model()).replace(b"\x01\x00\x00\x00y\x00", b"\x01\x00\x00\x00\xff\x00")
    graph = Graph(tflite_file.parse(content, "m.tflite"))
    assert [graph.name(index) for index in range(4)] == ["x", "\ufffd", "z", "c"]


def test_scales_that_cannot_be() -> None:
    whole = model()
    grid = quantized(1, 1)
    grid.scale = [float("nan")]
    whole.subgraphs[0].tensors[1].quantization = grid
    with pytest.raises(ModelError, match="tensor y is quantized in no way that can be"):
        Graph(tflite_file.parse(tflite_file.pack(whole), "m.tflite")).grid(1)


@pytest.mark.parametrize("part", ["operators", "inputs", "outputs"])
def test_models_without_ends(part: str, tmp_path: Path) -> None:
    whole, path = model(), tmp_path / "m.tflite"
    setting(part, [])(whole)
    tflite_file.write(whole, path)
    for use in (inspect, input_shape):
        with pytest.raises(ModelError, match=rf"m\.tflite has no {part}"):
            use(path)
