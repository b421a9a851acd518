"""Hold the weights and biases that an int8 file stores against those of its source, number by number.

What its operators compute does not show everything: a bias off by 2 % may move no result by half a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from torchshrink.converters import onnx_file, qdq
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_file import Graph

BIAS_TYPES = (schema.TensorType.INT32, schema.TensorType.INT64)
_NEAR = 0.05  # share of its size by which a vector may differ from the one that it is taken for
_ROUNDING = 1.01  # steps of int32 by which a bias may be rounded otherwise

Values = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Bias:
    """A bias as a file stores it: its name, its grid, and what its codes stand for."""

    name: str
    range_: Range
    values: Values


def differing(found: Values, wanted: Values, step: float) -> int:
    """Return how many of a weight's numbers the source does not have; their order is a matter of layout."""
    pair = np.sort(found, axis=None), np.sort(wanted, axis=None)
    return int((np.abs(pair[0] - pair[1]) > 0.1 * step).sum()) if pair[0].size == pair[1].size else 0


def wrong_biases(biases: Iterator[Bias], vectors: Mapping[str, Values]) -> Iterator[tuple[Bias, str, int]]:
    """Yield the biases that are nearly one of the source's vectors, its name, and how many numbers are others.

    One that is near none, as where a converter folds a constant into it, or repeats channels, is left to the
    comparison of what operators compute.
    """
    for bias in biases:
        order = np.argsort(bias.values)
        values = bias.values[order].astype(np.float64)
        steps = np.broadcast_to(bias.range_.scale, values.shape)[order]
        found = {name: _off(values, steps, vector) for name, vector in vectors.items()}
        near = {name: off for name, off in found.items() if off is not None}
        name = min(near, key=near.__getitem__, default=None)
        if name is not None and near[name]:
            yield bias, name, near[name]


def _off(values: Values, steps: Values, vector: Values) -> int | None:
    """Return how many of the sorted values are others than a vector's; None where it is not near."""
    if not vector.size or values.size % vector.size:
        return None
    wanted = np.sort(np.repeat(vector.astype(np.float64), values.size // vector.size))
    off = np.abs(values - wanted)
    is_near = off.mean() <= max(_NEAR * np.abs(wanted).mean(), float(steps.max()))
    return int((off > _ROUNDING * steps + 1e-6 * np.abs(wanted)).sum()) if is_near else None


def of_onnx(model: onnx.ModelProto) -> Iterator[Bias]:
    """Yield the biases of a QDQ graph that have codes."""
    arrays = onnx_file.constants(model)
    for node in model.graph.node:
        codes = arrays.get(node.input[0]) if node.op_type == onnx_file.DEQUANTIZE else None
        if codes is not None and codes.dtype == np.int32:
            range_ = qdq.stored_range(node, arrays)
            yield Bias(node.input[0], range_, qdq.dequantize(codes, range_).ravel())


def of_tflite(graph: Graph) -> Iterator[Bias]:
    """Yield the biases of a TFLite file that have codes."""
    for index, tensor in enumerate(graph.tensors):
        range_, codes = graph.grid(index), graph.constant(index)
        if tensor.type in BIAS_TYPES and range_ is not None and codes is not None:
            scale = np.asarray(range_.scale, np.float64)
            yield Bias(graph.name(index), range_, codes.astype(np.float64).reshape(-1) * scale)


def vectors(float_graph: onnx.ModelProto) -> dict[str, Values]:
    """Return the vectors that a float graph holds, its biases among them."""
    arrays = onnx_file.constants(float_graph)
    return {name: array for name, array in arrays.items() if array.ndim == 1 and array.dtype == np.float32}
