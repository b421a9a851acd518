"""What shape of input a file takes, in PyTorch's layout."""

from __future__ import annotations

from pathlib import Path

from torchshrink import checkpoint
from torchshrink.converters import tflite_file
from torchshrink.converters.export.to_onnx import load
from torchshrink.errors import ModelError


def input_shape(path: Path) -> list[int]:
    """Return ``[1, C, *size]`` of an ONNX, TFLite or checkpoint file.

    Raises:
        ModelError: When the file does not say.
    """
    if path.suffix == ".tflite":
        graph = tflite_file.read(path).subgraphs[0]
        batch, *size, channels = (int(side) for side in graph.tensors[graph.inputs[0]].shape)
        return [batch, channels, *size]
    if path.suffix == ".onnx":
        shape = load(path).graph.input[0].type.tensor_type.shape
        return [int(side.dim_value) or 1 for side in shape.dim]
    shape = checkpoint.describe(path).get("input_shape")
    if shape is None:
        raise ModelError(f"{path} does not say what shape its input has: pass --data")
    return list(shape)
