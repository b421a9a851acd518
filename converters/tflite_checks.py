"""What a TFLite file must keep to, so that what reads it need not ask: numbers of tensors, buffers and codes, order.

LiteRT itself crashes on much of what is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ai_edge_litert import schema_py_generated as schema

_Types = schema.TensorType
_BYTES = {
    **dict.fromkeys((_Types.INT8, _Types.UINT8, _Types.BOOL), 1),
    **dict.fromkeys((_Types.FLOAT16, _Types.BFLOAT16, _Types.INT16, _Types.UINT16), 2),
    **dict.fromkeys((_Types.FLOAT32, _Types.INT32, _Types.UINT32), 4),
    **dict.fromkeys((_Types.FLOAT64, _Types.INT64, _Types.UINT64), 8),
}
_LARGEST = 2**40  # elements


def check(model: Any) -> None:
    """Refuse a model object whose parts do not fit each other, and let empty lists be lists.

    Raises:
        ValueError: Saying which part.
    """
    for part in ("subgraphs", "buffers"):
        if not getattr(model, part):
            raise ValueError(f"it has no {part}")
    model.operatorCodes = model.operatorCodes or []
    for graph in model.subgraphs:
        for part in ("tensors", "operators", "inputs", "outputs"):
            if getattr(graph, part) is None:
                setattr(graph, part, [])
        for index, tensor in enumerate(graph.tensors):
            _check_tensor(model, tensor, index)
        _check_order(model, graph)
    for entry in model.metadata or ():
        _in(entry.buffer, model.buffers, "a buffer of its metadata")


def _check_tensor(model: Any, tensor: Any, index: int) -> None:
    _in(tensor.buffer, model.buffers, f"the buffer of tensor {index}")
    shape = [] if tensor.shape is None else [int(side) for side in tensor.shape]
    count = math.prod(shape)
    if any(side < 0 for side in shape) or count > _LARGEST:
        raise ValueError(f"tensor {index} has the shape {shape}")
    data, size = model.buffers[tensor.buffer].data, _BYTES.get(tensor.type)
    needed = (count + 1) // 2 if tensor.type == _Types.INT4 else None if size is None else count * size
    is_dense = data is not None and len(data) > 0 and tensor.sparsity is None
    if is_dense and needed is not None and len(data) != needed:
        raise ValueError(f"tensor {index} of shape {shape} has {len(data)} bytes, not {needed}")
    grid = tensor.quantization
    if grid is not None and grid.scale is not None:
        zero_points = 0 if grid.zeroPoint is None else len(grid.zeroPoint)
        if zero_points != len(grid.scale):
            raise ValueError(f"tensor {index} has {len(grid.scale)} scales and {zero_points} zero points")


def _check_order(model: Any, graph: Any) -> None:
    """Refuse operators that read what a later one makes: the order is that of the computation."""
    made_by: dict[int, int] = {}
    for position, operator in enumerate(graph.operators):
        _in(operator.opcodeIndex, model.operatorCodes, f"the code of operator {position}")
        for part in ("inputs", "outputs"):
            if getattr(operator, part) is None:
                setattr(operator, part, [])
        _all_in((index for index in operator.inputs if index != -1), graph.tensors, f"an input of operator {position}")
        _all_in(operator.outputs, graph.tensors, f"an output of operator {position}")
        for index in operator.outputs:
            made_by.setdefault(int(index), position)
    for part in ("inputs", "outputs"):
        _all_in(getattr(graph, part), graph.tensors, f"one of its {part}")
    for position, operator in enumerate(graph.operators):
        for index in operator.inputs:
            if made_by.get(int(index), -1) >= position and not graph.tensors[index].isVariable:
                raise ValueError(
                    f"operator {position} reads tensor {index} before it is computed: its graph is a cycle"
                )


def _all_in(indices: Iterable[Any], things: Any, what: str) -> None:
    for index in indices:
        _in(index, things, what)


def _in(index: Any, things: Any, what: str) -> None:
    if not 0 <= int(index) < len(things):
        raise ValueError(f"{what} is {index}, of {len(things)}")
