"""The operations of an ONNX file as ONNX Runtime optimized them: what each computes in, its MACs and its time.

ONNX Runtime writes the optimized graph, whose nodes then get names of ours and which runs as it is under the profiler:
the profile knows types, shapes and times, and the names say which node they belong to.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from torchshrink.converters import onnx_file, runtimes
from torchshrink.converters.anatomy.operations import Operation, Precision
from torchshrink.converters.onnx_file import attribute, load
from torchshrink.errors import ModelError
from torchshrink.runtime.onnx_session import profiled

_WARMUP_RUNS = 3
_FLOATS = {"float", "float16", "bfloat16", "double"}
_CODES = {"int8", "uint8", "int16", "uint16"}
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
# These compute in integers although their input or output may be float.
_INTEGER_KINDS = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}
# Where convolutions have their weight.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}

Shapes = dict[str, list[int]]
Inputs = dict[str, NDArray[Any]]


def timed(path: Path, *, runs: int, threads: int, shape: Sequence[int] | None) -> tuple[list[Operation], float]:
    """Return `read` and `median_ms` of a file."""
    how: dict[str, Any] = {"runs": runs, "threads": threads, "shape": shape}
    return read(path, **how), median_ms(path, **how)


def read(path: Path, *, runs: int = 1, threads: int = 1, shape: Sequence[int] | None = None) -> list[Operation]:
    """Return the operations of one inference, each with its median time.

    Args:
        path: The file.
        runs: Profiled inferences.
        threads: How many threads ONNX Runtime may use.
        shape: Of the first input, for files that take any size.

    Raises:
        ModelError: When the file is not ONNX, or takes any size and no shape is given.
        ConversionError: When ONNX Runtime refuses it.
    """
    model = _sized(path, shape)
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        optimized = Path(folder, "optimized.onnx")
        runtimes.onnx_session(model.SerializeToString(), path.name, optimized=optimized)
        graph = load(optimized)
    for position, node in enumerate(graph.graph.node):
        node.name = f"node{position}"
    with _named(path):
        calls = profiled(
            graph.SerializeToString(), _random_inputs(model), runs, _WARMUP_RUNS, threads=threads, level="DISABLE_ALL"
        )
    by_node: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        by_node.setdefault(call["node"], []).append(call)
    return _operations(graph.graph, by_node)


def median_ms(path: Path, *, runs: int, threads: int = 1, shape: Sequence[int] | None = None) -> float:
    """Return the time of one inference without the profiler, in ms; arguments and errors as in `read`."""
    model = _sized(path, shape)
    session = runtimes.onnx_session(model.SerializeToString(), path.name, threads=threads)
    spent, entry = [], _random_inputs(model)
    with _named(path):
        for _ in range(_WARMUP_RUNS + runs):
            start = time.perf_counter_ns()
            session.run(None, entry)
            spent.append((time.perf_counter_ns() - start) / 1e6)
    return float(np.median(spent[_WARMUP_RUNS:]))


def _sized(path: Path, shape: Sequence[int] | None) -> onnx.ModelProto:
    """Load a file and fix the sizes that it leaves open; a batch is of one sample."""
    model = load(path)
    entries = onnx_file.inputs(model)
    if shape is not None:
        sides = entries[0].type.tensor_type.shape.dim
        if len(sides) != len(shape) or any(s.dim_value not in (0, n) for s, n in zip(sides, shape, strict=True)):
            own = [side.dim_value or "any" for side in sides]
            raise ModelError(f"{path} takes inputs of shape {own}, not {list(shape)}: pass another --shape")
        for side, size in zip(sides, shape, strict=True):
            side.dim_value = size
    for entry in entries:
        for axis, side in enumerate(entry.type.tensor_type.shape.dim):
            if not side.dim_value and axis:
                raise ModelError(f"{path} takes inputs of any size: pass --shape, such as --shape 1,1,128,128")
            side.dim_value = side.dim_value or 1
    return model


def _random_inputs(model: onnx.ModelProto) -> Inputs:
    """Return random inputs by their names."""
    names = [item.name for item in onnx_file.inputs(model)]
    return dict(zip(names, onnx_file.random_inputs(model), strict=True))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file it was that ONNX Runtime could not run."""
    try:
        yield
    except Exception as error:  # onnxruntime's classes have no common base but this
        raise ModelError(f"ONNX Runtime cannot run {path}: {' '.join(str(error).split())}") from error


def _operations(graph: Any, events: dict[str, list[dict[str, Any]]]) -> list[Operation]:
    constants = {item.name for item in graph.initializer}
    shapes: Shapes = {item.name: list(item.dims) for item in graph.initializer}
    types: dict[str, str] = {}
    for item in graph.input:
        kind = item.type.tensor_type
        shapes[item.name] = [side.dim_value for side in kind.shape.dim]
        types[item.name] = _type_name(kind.elem_type)
    found = []
    for node in graph.node:
        calls = events.get(node.name, [])
        outputs = tuple(name for name in node.output if name)
        if calls:
            for name, described in zip(outputs, calls[-1]["args"]["output_type_shape"], strict=False):
                ((types[name], shapes[name]),) = described.items()
        inputs = tuple(name for name in node.input if name and name not in constants)
        precision = _precision(node.op_type, {types[name] for name in inputs + outputs if name in types})
        median_us = float(np.median([call["dur"] for call in calls])) if calls else None
        ms = None if median_us is None else median_us / 1e3
        found.append(
            Operation(
                node.op_type,
                outputs[0],
                precision,
                inputs,
                outputs,
                _macs(node, shapes),
                ms,
                is_depthwise(node, shapes),
            )
        )
    return found


def is_depthwise(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Return whether a node convolves every channel alone."""
    if node.op_type not in _CONVOLUTIONS or attribute(node, "group", 1) == 1:
        return False
    weight = shapes.get(node.input[_CONVOLUTIONS[node.op_type]])
    return weight is not None and weight[1] == 1


def _type_name(elem_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(elem_type)).lower()


def _precision(kind: str, types: set[str]) -> Precision:
    if kind in _CONVERSIONS:
        return "conversion"
    if kind in _INTEGER_KINDS or kind.startswith("QLinear"):
        return "int8"
    if _FLOATS & types:
        return "float"
    return "int8" if _CODES & types else "other"


def _convolution(weight: int) -> Callable[[NodeProto, Shapes], int]:
    """Count by output: each value sums over a window of its group's inputs; the weight is ``[O, I, *kernel]``."""
    return lambda node, shapes: math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])


def _transposed(node: NodeProto, shapes: Shapes) -> int:
    """Count by input: each value goes to a window of the outputs of its group; the weight is ``[I, O, *kernel]``."""
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _product(node: NodeProto, shapes: Shapes) -> int:
    depth = shapes[node.input[0]][-2 if attribute(node, "transA", 0) else -1]
    return math.prod(shapes[node.output[0]]) * depth


_MACS: dict[str, Callable[[NodeProto, Shapes], int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger",
                     "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _product),
}  # fmt: skip


def _macs(node: NodeProto, shapes: Shapes) -> int:
    """Return the multiply-accumulates of one inference, 0 where ONNX Runtime told no shape."""
    try:
        return _MACS[node.op_type](node, shapes) if node.op_type in _MACS else 0
    except KeyError:
        return 0
