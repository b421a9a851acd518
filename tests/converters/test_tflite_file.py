"""TFLite files as objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import ModelError

FLOAT32, INT8, INT32 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.INT32


def test_a_file_gives_back_what_was_written(unet2d: Any, tmp_path: Path, interpreter: Callable[[Path], Any]) -> None:
    tflite_file.write(tflite_file.read(unet2d.path("tflite-fp32")), tmp_path / "copy.tflite")
    outputs = []
    for path in (unet2d.path("tflite-fp32"), tmp_path / "copy.tflite"):
        opened = interpreter(path)
        opened.set_tensor(opened.get_input_details()[0]["index"], np.ones((1, 32, 32, 1), np.float32))
        opened.invoke()
        outputs.append(opened.get_tensor(opened.get_output_details()[0]["index"]))
    assert np.array_equal(*outputs)


@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-fp16", "tflite-int8", "tflite-int8-sparse"])
def test_data_is_aligned_as_the_format_says(unet2d: Any, name: str) -> None:
    """``data:[ubyte] (force_align: 16)`` in TFLite's schema: vector units and accelerators load it as it lies."""
    content = unet2d.path(name).read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    offsets = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
    assert offsets
    assert {offset % 16 for offset in offsets} == {0}


def test_metadata_is_replaced(tflite_builder: Any, tmp_path: Path) -> None:
    """The earlier content leaves the file with its entry; what other tools stored stays."""
    model = tflite_builder.finish([], [])
    other = schema.MetadataT()
    other.name, other.buffer = "min_runtime_version", tflite_file.add_buffer(model, b"1.5.0")
    model.metadata = [other]
    tflite_file.set_metadata(model, {"long": "x" * 10_000})
    tflite_file.set_metadata(model, {"normalization": {"mean": [0.5]}})
    tflite_file.write(model, tmp_path / "model.tflite")
    found = tflite_file.read(tmp_path / "model.tflite")
    assert tflite_file.get_metadata(found) == {"normalization": {"mean": [0.5]}}
    assert [bytes(entry.name) for entry in found.metadata] == [b"min_runtime_version", b"torchshrink"]
    assert bytes(found.buffers[found.metadata[0].buffer].data) == b"1.5.0"
    assert (tmp_path / "model.tflite").stat().st_size < 1000


def test_no_metadata(tflite_builder: Any) -> None:
    model = tflite_builder.finish([], [])
    assert tflite_file.get_metadata(model) == {}
    model.metadata = None
    assert tflite_file.get_metadata(model) == {}


def test_constants(tflite_builder: Any) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tflite_builder.tensor("constant", (2, 3), FLOAT32, values)
    tflite_builder.tensor("computed", (2, 3), FLOAT32)
    model = tflite_builder.finish([], [])
    constant, computed = model.subgraphs[0].tensors
    assert np.array_equal(tflite_file.constant(model, constant), values)
    assert tflite_file.constant(model, computed) is None


def test_quantization(tflite_builder: Any, tmp_path: Path) -> None:
    """An activation may own an empty buffer, as in the files of TensorFlow: it is no weight for that."""
    builder = tflite_builder
    for name, shape, kind, data in (
        ("activation", (1, 4, 4, 2), INT8, None),
        ("weight", (1, 3), INT8, np.ones((1, 3), np.int8)),
        ("bias", (3,), INT32, np.ones(3, np.int32)),
        ("float", (2,), FLOAT32, None),
    ):
        builder.tensor(name, shape, kind, data, scale=0.0 if name == "float" else 0.5)
    model = builder.finish([], [])
    activation = model.subgraphs[0].tensors[0]
    model.buffers.append(schema.BufferT())
    activation.buffer = len(model.buffers) - 1
    activation.quantization.zeroPoint = [-7]
    tflite_file.write(model, tmp_path / "model.tflite")
    model = tflite_file.read(tmp_path / "model.tflite")
    found = [tflite_file.quantization(model, tensor) for tensor in model.subgraphs[0].tensors]
    assert found == [Range((0.5,), (-7,)), Range((0.5,), (0,), axis=0), Range((0.5,), (0,)), None]


def test_operator_codes_are_shared(tflite_builder: Any) -> None:
    model = tflite_builder.finish([], [])
    first = tflite_file.opcode(model, schema.BuiltinOperator.CONV_2D)
    second = tflite_file.opcode(model, schema.BuiltinOperator.GELU)  # beyond 127: only the newer field holds it
    assert tflite_file.opcode(model, schema.BuiltinOperator.CONV_2D) == first
    assert first != second
    operator = tflite_builder.operator(schema.BuiltinOperator.GELU, [], [])
    assert tflite_file.op_name(model, operator) == "GELU"


@pytest.mark.parametrize("content", [None, b"", bytes(100), b"12345TFL3"], ids=["missing", "empty", "zeros", "shifted"])
def test_what_is_no_tflite_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.tflite"):
        tflite_file.read(tmp_path / "model.tflite")


def test_equal_vectors_are_stored_once(tflite_builder: Any) -> None:
    """Files are smaller by what they repeat; each tensor still reads its own values."""
    model = tflite_builder.finish([], [])
    size = len(tflite_file.pack(model))
    for value in (3, 3, 4):
        tflite_file.add_buffer(model, bytes([value]) * 4096)
    packed = tflite_file.pack(model)
    assert 2 * 4096 < len(packed) - size < 2 * 4096 + 200
    read = tflite_file.parse(packed, "packed")
    assert [bytes(buffer.data)[:1] for buffer in read.buffers[-3:]] == [b"\3", b"\3", b"\4"]


def _chain(builder: Any) -> tuple[Graph, list[int]]:
    """``a -> RELU -> b -> RELU -> c``, and ``b`` once more to ``d``; c and d are outputs of the model."""
    tensors = [builder.tensor(name, (4,), FLOAT32) for name in "abcd"]
    for source, target in ((0, 1), (1, 2), (1, 3)):
        builder.operator(schema.BuiltinOperator.RELU, [tensors[source]], [tensors[target]])
    return Graph(builder.finish(tensors[:1], tensors[2:])), tensors


def test_neighbours_in_a_graph(tflite_builder: Any) -> None:
    graph, (first, middle, *last) = _chain(tflite_builder)
    assert graph.producer(first) is None
    assert graph.producer(middle) is graph.operators[0]
    assert graph.readers(middle) == graph.operators[1:]
    assert (graph.inputs, graph.outputs, graph.name(middle)) == ([first], last, "b")


def test_a_copy_in_another_place(tflite_builder: Any) -> None:
    """What a graph changes is in its model; the tensor that was copied stays as it was."""
    graph, (_, _, last, other) = _chain(tflite_builder)
    signature, entry = schema.SignatureDefT(), schema.TensorMapT()
    entry.tensorIndex, signature.inputs, signature.outputs = last, [], [entry]
    graph.model.signatureDefs = [signature]
    codes = graph.add_copy(last, "codes")
    graph.make_int8(codes, Range((0.5,), (3,)))
    graph.operators.append(graph.step("QUANTIZE", last, codes))
    graph.replace_end("outputs", last, codes)
    again = Graph(graph.model)
    assert (again.outputs, entry.tensorIndex) == ([codes, other], codes)
    assert (again.grid(codes), again.grid(last)) == (Range((0.5,), (3,)), None)
    assert (again.is_int8(codes), again.is_float(last), again.kind(again.operators[-1])) == (True, True, "QUANTIZE")
    assert [again.name(graph.add_copy(last, "codes")) for _ in range(2)] == ["codes#2", "codes#3"]
