"""Put every scale that training learned beside the one that a shipped file holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch import Tensor
from torchshrink.converters import flatbuffer, onnx_export, qdq, runtimes, sparse
from torchshrink.converters.ranges import Range

_BIAS_TYPES = (schema.TensorType.INT32, schema.TensorType.INT64)


@dataclass(frozen=True)
class Scale:
    """One quantized tensor of a file.

    Attributes:
        tensor: Its name in the file.
        source: The PyTorch tensor that it is, None when none computes the same values.
        trained: What training learned for that one.
        shipped: What the file holds.
    """

    tensor: str
    source: str | None
    trained: Range | None
    shipped: Range

    @property
    def is_equal(self) -> bool:
        """Return whether scales (as float32) and zero points are identical."""
        if self.trained is None or len(self.shipped.scale) % len(self.trained.scale):
            return False
        # A transposed convolution rewritten as a 1x1 one has each output channel several times.
        times = len(self.shipped.scale) // len(self.trained.scale)
        scale = np.repeat(np.asarray(self.trained.scale, np.float32), times)
        zero_point = np.repeat(self.trained.zero_point, times)
        return np.array_equal(scale, np.asarray(self.shipped.scale, np.float32)) and np.array_equal(
            zero_point, self.shipped.zero_point
        )


def compare(path: Path, graph: onnx.ModelProto, sample: Tensor) -> list[Scale]:
    """Return the scale of every weight and activation of an int8 file beside the trained one.

    Tensors are paired by what they hold: weights by their codes, activations by their values on one input. Names and
    scales play no part in it.

    Args:
        path: An int8 TFLite or ONNX file.
        graph: The generic QDQ export of the quantized PyTorch graph.
        sample: ``[1, C, *size]``.
    """
    entry = sample[:1].numpy()
    float_graph, trained = qdq.split(graph)
    arrays = qdq.constants(float_graph)
    activations = {name for name, range_ in trained.items() if range_.axis is None}
    known = {name: np.sort(value.ravel()) for name, value in _values(graph, activations, entry).items()}
    weights = {name: np.sort(arrays[name].ravel()) for name in trained if name in arrays}
    shipped = _in_tflite(path, entry) if path.suffix == ".tflite" else _in_onnx(path, entry)
    rows = []
    for name, range_, values in shipped:
        candidates = weights if range_.axis is not None else known
        source = _nearest(np.sort(values.ravel()), candidates, max(range_.scale))
        rows.append(Scale(name, source, trained[source] if source else None, range_))
    return rows


def _values(graph: onnx.ModelProto, names: set[str], entry: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the quantized values of the named tensors: what the dequantize nodes after them give."""
    arrays = qdq.constants(graph)
    source: dict[str, str] = {}
    for node in graph.graph.node:
        if node.op_type == qdq.QUANTIZE:
            source[node.output[0]] = source.get(node.input[0], node.input[0])
        elif (node.op_type == qdq.DEQUANTIZE and node.input[0] not in arrays) or (
            node.op_type == "Clip" and node.input[0] in source
        ):
            source[node.output[0]] = source[node.input[0]]
    last = {item.name for item in graph.graph.output}
    wanted = {name: origin for name, origin in source.items() if origin in names or (name in last and name in names)}
    found = runtimes.onnx_values(graph, set(wanted), entry)
    return {
        (name if name in last else wanted[name]): value
        for name, value in found.items()
        if name in wanted and value.dtype == np.float32
    }


def _in_tflite(path: Path, entry: NDArray[Any]) -> list[tuple[str, Range, NDArray[Any]]]:
    model = flatbuffer.read(path)
    computed = runtimes.tflite_values(path, entry)
    rows = []
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        range_ = flatbuffer.quantization(model, tensor)
        if range_ is None or tensor.type in _BIAS_TYPES:
            continue
        codes = sparse.decode(model, tensor) if tensor.sparsity is not None else flatbuffer.constant(model, tensor)
        if codes is not None:
            rows.append((flatbuffer.tensor_name(tensor), range_, qdq.dequantize(codes, range_)))
        elif index in computed and range_.axis is None:
            rows.append((flatbuffer.tensor_name(tensor), range_, computed[index].values))
    return rows


def _in_onnx(path: Path, entry: NDArray[Any]) -> list[tuple[str, Range, NDArray[Any]]]:
    model = onnx_export.load(path)
    float_graph, ranges = qdq.split(model)
    arrays = qdq.constants(float_graph)
    values = _values(model, {name for name, range_ in ranges.items() if range_.axis is None}, entry)
    return [
        (name, range_, arrays[name] if name in arrays else values[name])
        for name, range_ in ranges.items()
        if name in values or (name in arrays and arrays[name].ndim > 1)
    ]


def _nearest(values: NDArray[Any], candidates: dict[str, NDArray[Any]], step: float) -> str | None:
    """Return the candidate whose sorted values are nearest, when they are no further than a few quantization steps."""
    distances = {
        name: float(np.abs(candidate - values).mean())
        for name, candidate in candidates.items()
        if candidate.shape == values.shape
    }
    best = min(distances, key=distances.__getitem__, default=None)
    return best if best is not None and distances[best] <= 2 * step else None
