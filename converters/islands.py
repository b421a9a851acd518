"""List what an int8 file still computes in float, from the file as its runtime will run it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from torchshrink.converters import flatbuffer, onnx_export, runtimes

_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear"}


def find(path: Path) -> tuple[str, ...]:
    """Return the float operations of an int8 ONNX or TFLite file, by kind and tensor.

    Quantizing the input and dequantizing the output are not islands.

    Raises:
        ModelError: When the file is not TFLite.
        ConversionError: When ONNX Runtime refuses the file.
    """
    return _in_tflite(path) if path.suffix == ".tflite" else _in_onnx(path)


def _in_tflite(path: Path) -> tuple[str, ...]:
    model = flatbuffer.read(path)
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        kind = flatbuffer.op_name(model, operator)
        output = graph.tensors[operator.outputs[0]]
        if output.type == schema.TensorType.FLOAT32 and operator.outputs[0] not in list(graph.outputs):
            found.append(f"{kind} {flatbuffer.tensor_name(output)}")
    return tuple(found)


def _in_onnx(path: Path) -> tuple[str, ...]:
    """Let ONNX Runtime optimize the graph, then list who still reads dequantized values."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        runtimes.onnx_session(path, path.name, optimized)
        graph = onnx_export.load(optimized).graph
    real = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return tuple(
        f"{node.op_type} {node.output[0]}"
        for node in graph.node
        if node.op_type not in _CONVERSIONS and real & set(node.input)
    )
