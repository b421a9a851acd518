"""What a file holds, read back from the file itself: its weights, the shape of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.converters import qdq, sparse, tflite_file
from torchshrink.converters.export.to_onnx import load
from torchshrink.errors import ModelError


def read_weights(path: Path) -> list[NDArray[Any]]:
    """Return the constant tensors of two or more dimensions of an ONNX, TFLite or safetensors file.

    Sparse tensors come back dense; the type is the stored one (float32, float16 or int8).
    """
    if path.suffix == ".tflite":
        return _from_tflite(path)
    if path.suffix == ".onnx":
        arrays = qdq.constants(load(path)).values()
    else:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path).values()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is missing, truncated or not a safetensors file ({error})") from error
    return [array for array in arrays if array.ndim >= 2]


def _from_tflite(path: Path) -> list[NDArray[Any]]:
    model = tflite_file.read(path)
    found: dict[int, NDArray[Any]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            values = (
                sparse.decode(model, tensor) if tensor.sparsity is not None else tflite_file.constant(model, tensor)
            )
            if values is not None and values.ndim >= 2 and not np.issubdtype(values.dtype, np.int32):
                found[tensor.buffer] = values
    return list(found.values())
