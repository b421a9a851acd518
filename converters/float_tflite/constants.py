"""Carry the constants that must not be folded around TensorFlow.

TensorFlow multiplies the weights of a convolution by a constant that its input or output is multiplied by, and the file
then holds weights that no longer are those that were trained. Where a float ONNX graph has inputs with default values
(see `qdq.split`), TensorFlow gets true inputs, and the TFLite file that it writes gets the values back.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from torchshrink.converters import onnx_file, tflite_file
from torchshrink.errors import ConversionError

_NAME = "operand{}"  # of letters and digits only: onnx2tf rewrites other names


class Constants:
    """Takes the default values of inputs out, and stores them in the TFLite file."""

    def __init__(self) -> None:
        self._values: list[NDArray[Any]] = []

    def before(self, model: ModelProto) -> ModelProto:
        """Remove the default values; a graph with any gets its inputs in the order of their names.

        TensorFlow puts them in that order, and onnx2tf 2.x names them by their place.
        """
        defaults = onnx_file.constants(model)
        kept = [item for item in model.graph.input if not _has_equal_sides(defaults.get(item.name))]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        names = [item.name for item in kept if item.name in defaults]
        if names:
            onnx_file.rename(model, {name: _NAME.format(index) for index, name in enumerate(names)})
            model.graph.input.sort(key=lambda item: item.name)
            onnx_file.replace_initializers(model, {})
            self._values = [defaults[name] for name in names]
        return model

    def after(self, tflite: Any) -> None:
        """Make these inputs constants again.

        Raises:
            ConversionError: When the converter changed such an input's shape.
        """
        graph = tflite.subgraphs[0]
        for index, value in enumerate(self._values):
            position = _take_input(tflite, _NAME.format(index))
            tensor = graph.tensors[position]
            moved = np.moveaxis(value, 1, -1) if value.ndim > 2 else value
            if list(tensor.shape) != list(moved.shape):
                raise ConversionError(
                    f"onnx2tf made a constant of shape {list(moved.shape)} one of {list(tensor.shape)}"
                )
            tensor.buffer = tflite_file.add_buffer(tflite, np.ascontiguousarray(moved, np.float32).tobytes())
            graph.inputs = [other for other in graph.inputs if other != position]


def _has_equal_sides(value: NDArray[Any] | None) -> bool:
    """Return whether onnx2tf could mistake a constant's channels; no weight can be multiplied by one with two sides."""
    sides = [side for side in value.shape if side > 1] if value is not None else []
    return len(set(sides)) < len(sides)


def _take_input(model: Any, name: str) -> int:
    """Return the index of the input that has ``name`` in its own, and remove it from the file's signatures."""
    graph = model.subgraphs[0]
    for index in graph.inputs:
        if name in re.split("[^a-z0-9]", tflite_file.tensor_name(graph.tensors[index])):
            for signature in model.signatureDefs or []:
                signature.inputs = [item for item in signature.inputs if item.tensorIndex != index]
            return int(index)
    raise ConversionError(f"onnx2tf lost the constant {name}")
