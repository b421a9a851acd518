"""What a file holds, read back from the file itself: its weights, the shape of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import ModelError


def read_weights(path: Path) -> list[NDArray[Any]]:
    """Return the constant tensors of two or more dimensions of an ONNX, TFLite or safetensors file.

    Sparse tensors come back dense; the type is the stored one (float32, float16 or int8).
    """
    if path.suffix == ".tflite":
        return _from_tflite(path)
    if path.suffix == ".onnx":  # each kind of file asks for its own packages only
        from torchshrink.converters import onnx_file

        arrays = onnx_file.constants(onnx_file.load(path)).values()
    else:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path).values()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is missing, truncated or not a safetensors file ({error})") from error
    return [array for array in arrays if array.ndim >= 2]


def _from_tflite(path: Path) -> list[NDArray[Any]]:
    from torchshrink.converters import sparse, tflite_file

    model = tflite_file.read(path)
    found: dict[int, NDArray[Any]] = {}
    for graph in tflite_file.graphs(model):
        for index, tensor in enumerate(graph.tensors):
            values = sparse.decode(model, tensor) if tensor.sparsity is not None else graph.constant(index)
            if values is not None and values.ndim >= 2 and not np.issubdtype(values.dtype, np.int32):
                found[tensor.buffer] = values
    return list(found.values())


def input_shape(path: Path) -> list[int]:
    """Return ``[1, C, *size]`` of an ONNX, TFLite or checkpoint file.

    Raises:
        ModelError: When the file does not say.
    """
    if path.suffix == ".tflite":
        from torchshrink.converters import tflite_file

        model = tflite_file.read(path)
        tflite_file.check_ends(model, str(path))
        shape = tflite_file.Graph(model).tensors[model.subgraphs[0].inputs[0]].shape
        if shape is None or len(shape) < 2:
            raise ModelError(f"{path} does not say what shape its input has: pass --data")
        batch, *size, channels = (int(side) for side in shape)
        return [batch, channels, *size]
    if path.suffix == ".onnx":
        from torchshrink.converters import onnx_file

        shape = onnx_file.load(path).graph.input[0].type.tensor_type.shape
        return [int(side.dim_value) or 1 for side in shape.dim]
    from torchshrink import checkpoint  # which needs torch

    shape = checkpoint.describe(path).get("input_shape")
    if shape is None:
        raise ModelError(f"{path} does not say what shape its input has: pass --data")
    return list(shape)
