"""Store pruned TFLite weights as sparse tensors, which the stock interpreter expands when it loads the file.

Only the nonzero values, their positions within a row and the row boundaries are kept. Source: TFLite's
``SparsityParameters`` (schema.fbs) and its DENSIFY operator; the layout is that of TACO (Kjolstad et al., 2017) with
all dimensions dense but the innermost, which is compressed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from torchshrink.converters import tflite_file
from torchshrink.converters.tflite_file import Graph, graphs
from torchshrink.converters.tflite_ops import row

# What the vector tables, the DENSIFY operator and its output tensor cost on top of the values, about.
_OVERHEAD_BYTES = 400


def encode(source: Path, target: Path) -> int:
    """Write ``source`` with every weight sparse that is smaller that way, and return how many were.

    The values are unchanged, to the bit. XNNPACK and the reference kernels accept every weight from a DENSIFY operator,
    but float16 ones: where a DEQUANTIZE follows and the bias is float32, XNNPACK was seen computing something else,
    silently.
    """
    model = tflite_file.read(source)
    count = sum(_encode_graph(graph) for graph in graphs(model))
    tflite_file.write(model, target)
    return count


def _encode_graph(graph: Graph) -> int:
    weights = {
        index
        for operator in graph.operators
        if row(graph.kind(operator)).weight is not None
        for index in operator.inputs
        if index >= 0
    }
    users = _buffer_users(graph.model)
    densify = []
    for index in sorted(weights):
        values = graph.constant(index)
        if values is None or values.ndim < 2 or users[graph.tensors[index].buffer] > 1:
            continue
        packed, parameters = _best_layout(values)
        if packed.nbytes + _index_bytes(parameters) + _OVERHEAD_BYTES >= values.nbytes:
            continue
        densify.append(_make_sparse(graph, index, packed, parameters))
    graph.operators[:0] = densify
    return len(densify)


def _make_sparse(graph: Graph, index: int, packed: NDArray[Any], parameters: Any) -> Any:
    """Turn tensor ``index`` into the dense result of a DENSIFY operator, which is returned."""
    dense, sparse = graph.tensors[index], graph.add_copy(index, f"{graph.name(index)}_sparse")
    graph.tensors[sparse].sparsity = parameters
    graph.model.buffers[dense.buffer].data = np.frombuffer(packed.tobytes(), np.uint8)
    dense.buffer = 0
    operator = graph.step("DENSIFY", sparse, index, version=1)
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator


def decode(model: Any, tensor: Any) -> NDArray[Any]:
    """Return the dense values of a sparse tensor that `encode` wrote."""
    parameters = tensor.sparsity
    order = [int(axis) for axis in parameters.traversalOrder]
    shape = [int(tensor.shape[axis]) for axis in order]
    segments, indices = (np.asarray(part.values) for part in _compressed(parameters))
    dtype = tflite_file.dtype(tensor)
    rows = np.zeros((len(segments) - 1, shape[-1]), dtype)
    packed = np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype)
    rows[np.repeat(np.arange(len(rows)), np.diff(segments.astype(np.int64))), indices] = packed
    return rows.reshape(shape).transpose(np.argsort(order))


def _compressed(parameters: Any) -> tuple[Any, Any]:
    last = parameters.dimMetadata[-1]
    return last.arraySegments, last.arrayIndices


def _best_layout(values: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    """Return the packed nonzeros and the parameters of the traversal order that takes the fewest bytes."""
    best = None
    for innermost in range(values.ndim):
        order = [axis for axis in range(values.ndim) if axis != innermost] + [innermost]
        rows = values.transpose(order).reshape(-1, values.shape[innermost])
        mask = rows != 0
        segments = np.concatenate([[0], np.cumsum(mask.sum(1))])
        indices = np.nonzero(mask)[1]
        size = _vector(segments)[1].nbytes + _vector(indices)[1].nbytes
        if best is None or size < best[0]:
            best = (size, rows[mask], _parameters(values.shape, order, segments, indices))
    assert best is not None
    return best[1:]


def _parameters(shape: tuple[int, ...], order: list[int], segments: NDArray[Any], indices: NDArray[Any]) -> Any:
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = order
    parameters.blockMap = []
    parameters.dimMetadata = []
    for position, axis in enumerate(order):
        dimension = schema.DimensionMetadataT()
        if position < len(order) - 1:
            dimension.format = schema.DimensionType.DENSE
            dimension.denseSize = shape[axis]
        else:
            dimension.format = schema.DimensionType.SPARSE_CSR
            dimension.arraySegmentsType, dimension.arraySegments = _vector_table(segments)
            dimension.arrayIndicesType, dimension.arrayIndices = _vector_table(indices)
        parameters.dimMetadata.append(dimension)
    return parameters


def _vector(values: NDArray[Any]) -> tuple[int, NDArray[Any]]:
    """Return the narrowest unsigned type that holds ``values``, as the schema's enum and as an array."""
    largest = int(values.max(initial=0))
    if largest <= 0xFF:
        return schema.SparseIndexVector.Uint8Vector, values.astype(np.uint8)
    if largest <= 0xFFFF:
        return schema.SparseIndexVector.Uint16Vector, values.astype(np.uint16)
    return schema.SparseIndexVector.Int32Vector, values.astype(np.int32)


def _vector_table(values: NDArray[Any]) -> tuple[int, Any]:
    kind, array = _vector(values)
    table = {
        schema.SparseIndexVector.Uint8Vector: schema.Uint8VectorT,
        schema.SparseIndexVector.Uint16Vector: schema.Uint16VectorT,
        schema.SparseIndexVector.Int32Vector: schema.Int32VectorT,
    }[kind]()
    table.values = array
    return kind, table


def _index_bytes(parameters: Any) -> int:
    return sum(int(part.values.nbytes) for part in _compressed(parameters))


def _buffer_users(model: Any) -> dict[int, int]:
    users: dict[int, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            users[tensor.buffer] = users.get(tensor.buffer, 0) + 1
    return users
