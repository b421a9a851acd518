"""Tensors that a converter added inside of one quantized operation: it wrote the operation as several.

No range was learned for them, for in training they did not exist. Inside of an operation that runs in int8 they are
calibrated; between operations that are float in the quantized graph they stay float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from torchshrink.converters import runtimes
from torchshrink.converters.int8_tflite import matching
from torchshrink.converters.int8_tflite.matching import Match
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_file import Graph

# Operations that have an int8 form.
_INTEGER = {
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "HardSigmoid",
    "HardSwish", "LeakyRelu", "MatMul", "MaxPool", "Mul", "PRelu", "Pad", "ReduceMean", "Relu", "Resize", "Sigmoid",
    "Softmax", "Sub", "Tanh",
}  # fmt: skip


def calibrate(
    graph: Graph,
    path: Path,
    source: onnx.ModelProto,
    grids: Mapping[int, Range],
    match: Match,
    samples: Sequence[runtimes.Sample],
) -> dict[int, Range]:
    """Return ranges for the tensors inside of quantized operations, seen on samples.

    Args:
        graph: Of the float TFLite model.
        path: Its file.
        source: The float ONNX model.
        grids: The ranges that are known, by tensor.
        match: Receives which tensors were calibrated.
        samples: Inputs in PyTorch's layout; without any nothing is calibrated.
    """
    inside = _inside(graph, source, grids, match) if samples else set()
    if not inside:
        return {}
    seen: dict[int, list[float]] = {index: [0.0] for index in inside}
    for sample in samples:
        for index, tensor in runtimes.tflite_values(path, sample).items():
            if index in inside:
                seen[index] += [float(tensor.values.min()), float(tensor.values.max())]
    match.calibrated += [graph.name(index) for index in sorted(inside)]
    return {index: _range(min(values), max(values)) for index, values in seen.items()}


def _inside(graph: Graph, source: onnx.ModelProto, grids: Mapping[int, Range], match: Match) -> set[int]:
    """Return the tensors on whose every way to the next known tensor there is one ONNX operation, an int8 one."""
    producers = {index: operator for operator in graph.operators for index in operator.outputs}
    unknown = matching.computed(graph) - set(grids)
    found: set[int] = set()
    refused: set[int] = set()
    for end in {*grids, *graph.outputs}:
        region = _region(end, producers, unknown) | ({end} & unknown)
        name = match.sources.get(graph.name(end))
        (found if name is not None and _is_one_operation(source, name, match) else refused).update(region)
    return found - refused


def _region(end: int, producers: Mapping[int, Any], unknown: set[int]) -> set[int]:
    """Return the unknown tensors from which ``end`` is computed."""
    region: set[int] = set()
    waiting = [end]
    while waiting:
        each = waiting.pop()
        before = [int(i) for i in producers[each].inputs] if each in producers else []
        fresh = [index for index in before if index in unknown and index not in region]
        region.update(fresh)
        waiting += fresh
    return region


def _is_one_operation(source: onnx.ModelProto, name: str, match: Match) -> bool:
    """Return whether an ONNX tensor is computed from quantized ones by one operation that has an int8 form."""
    producers = {output: node for node in source.graph.node for output in node.output}
    node = producers.get(name)
    if node is not None and node.op_type in ("Relu", "Clip") and node.input[0] not in match.sources.values():
        node = producers.get(node.input[0])  # fused
    if node is None or node.op_type not in _INTEGER:
        return False
    computed = [each for each in node.input if each in producers]
    return all(each in match.sources.values() for each in computed)


def _range(low: float, high: float) -> Range:
    """Return the affine int8 range that covers ``low`` to ``high``, which has a zero in it."""
    scale = float(np.float32(max(high - low, 1e-6) / 255))
    return Range((scale,), (int(np.clip(np.rint(-128 - low / scale), -128, 127)),))
