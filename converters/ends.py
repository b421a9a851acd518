"""What a file takes and gives: names, types, shapes, and of int8 codes what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from torchshrink.converters import tflite_file
from torchshrink.converters.onnx_file import load
from torchshrink.converters.tflite_file import Graph


def ends(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the ``inputs`` and ``outputs`` of an ONNX or TFLite file, as `torchshrink.report.schema.End`.

    Raises:
        ModelError: When the file cannot be read.
    """
    if path.suffix == ".onnx":
        graph = load(path).graph
        return {"inputs": [_value(each) for each in graph.input], "outputs": [_value(each) for each in graph.output]}
    model = tflite_file.read(path)
    graph = Graph(model)
    return {"inputs": [_tensor(graph, index) for index in graph.inputs],
            "outputs": [_tensor(graph, index) for index in graph.outputs]}  # fmt: skip


def _value(value: Any) -> dict[str, Any]:
    tensor = value.type.tensor_type
    kind = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = [
        int(side.dim_value) if side.HasField("dim_value") else side.dim_param or "any" for side in tensor.shape.dim
    ]
    return {"name": value.name, "type": kind, "shape": shape}


def _tensor(graph: Any, index: int) -> dict[str, Any]:
    tensor, grid = graph.tensors[index], graph.grid(index)
    shape = [] if tensor.shape is None else [int(side) for side in tensor.shape]
    found = {"name": graph.name(index), "type": np.dtype(tflite_file.dtype(tensor)).name, "shape": shape}
    return found if grid is None else {**found, "scale": grid.scale[0], "zero_point": grid.zero_point[0]}
