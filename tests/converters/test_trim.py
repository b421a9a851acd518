"""What nobody reads is left out of a TFLite file, which computes what it did."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.trim import trim


def made(names: list[str]) -> Any:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.subgraphs, model.operatorCodes, model.buffers = [graph], [], [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [len(names) - 1]
    for name in names:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name.encode(), [1]
        graph.tensors.append(tensor)
    return model


def names_of(model: Any) -> list[str]:
    return [tflite_file.tensor_name(tensor) for tensor in model.subgraphs[0].tensors]


def test_names_are_short_and_still_apart() -> None:
    long = "model_1/tf.nn.relu/Relu;model_1/tf.nn.convolution/convolution"
    model = made(["input;of:0", "arith.constant", long, long + ";b", "relu/Relu", "tf.concat/concat", "model/tf.out:0"])
    trim(model)
    assert names_of(model) == ["input;of:0", "c", "relu/Relu", "relu/Relu#2", "relu/Relu#3", "concat/concat",
                               "model/tf.out:0"]  # fmt: skip


def test_only_the_converters_account_of_itself_goes() -> None:
    model = made(["x", "y"])
    model.metadata = []
    for name in (b"CONVERSION_METADATA", b"min_runtime_version", b"torchshrink"):
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, tflite_file.add_buffer(model, b"content of it")
        model.metadata.append(entry)
    before = len(tflite_file.pack(model))
    trim(model)
    assert [entry.name for entry in model.metadata] == [b"min_runtime_version", b"torchshrink"]
    assert all(len(model.buffers[entry.buffer].data) == 13 for entry in model.metadata)
    assert len(tflite_file.pack(model)) < before
