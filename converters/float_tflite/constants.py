"""Carry the constants that must not be folded around TensorFlow.

TensorFlow multiplies the weights of a convolution by a constant that its input or output is multiplied by, and the file
then holds weights that no longer are those that were trained. Where a float ONNX graph has inputs with default values
(see `qdq.split`), TensorFlow gets true inputs, and the TFLite file that it writes gets the values back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torchshrink.converters import onnx_file, tflite_file
from torchshrink.converters.onnx_file import load
from torchshrink.errors import ConversionError

_NAME = "operand{}"  # of letters and digits only: onnx2tf rewrites other names


def take_out(path: Path) -> list[NDArray[Any]]:
    """Remove the default values from the ONNX file at ``path`` and return them; a file without any is left alone.

    Its inputs are then in the order of their names: TensorFlow puts them in that order, and onnx2tf 2.x names them by
    their place.
    """
    model = load(path)
    defaults = onnx_file.constants(model)
    names = [item.name for item in model.graph.input if item.name in defaults]
    if not names:
        return []
    renamed = {name: _NAME.format(index) for index, name in enumerate(names)}
    for item in model.graph.input:
        item.name = renamed.get(item.name, item.name)
    model.graph.input.sort(key=lambda item: item.name)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    onnx_file.replace_initializers(model, {})
    onnx.save(model, str(path))
    return [defaults[name] for name in names]


def put_back(path: Path, values: list[NDArray[Any]]) -> None:
    """Make the inputs of the TFLite file at ``path`` constants again that `take_out` made inputs.

    Raises:
        ConversionError: When the converter changed such an input's shape.
    """
    if not values:
        return
    model = tflite_file.read(path)
    graph = model.subgraphs[0]
    for index, value in enumerate(values):
        position = _take_input(model, _NAME.format(index))
        tensor = graph.tensors[position]
        moved = np.moveaxis(value, 1, -1) if value.ndim > 2 else value
        if list(tensor.shape) != list(moved.shape):
            raise ConversionError(f"onnx2tf made a constant of shape {list(moved.shape)} one of {list(tensor.shape)}")
        tensor.buffer = tflite_file.add_buffer(model, np.ascontiguousarray(moved, np.float32).tobytes())
        graph.inputs = [other for other in graph.inputs if other != position]
    tflite_file.write(model, path)


def _take_input(model: Any, name: str) -> int:
    """Return the index of the input that has ``name`` in its own, and remove it from the file's signatures."""
    graph = model.subgraphs[0]
    for index in graph.inputs:
        if name in re.split("[^a-z0-9]", tflite_file.tensor_name(graph.tensors[index])):
            for signature in model.signatureDefs or []:
                signature.inputs = [item for item in signature.inputs if item.tensorIndex != index]
            return int(index)
    raise ConversionError(f"onnx2tf lost the constant {name}")
