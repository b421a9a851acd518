"""Quantize a float TFLite file with the scales that PyTorch learned.

The float file came through onnx2tf, which renames and fuses tensors. Its tensors are matched with those of the float
ONNX file by their values on one random input, the learned ranges are handed to ai-edge-quantizer as if they were its
calibration result, and every scale arrives as it was.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torchshrink.converters import flatbuffer, integer_ops, moves, qdq, runtimes
from torchshrink.converters.ranges import Range, Ranges

from torchshrink.errors import ConversionError

# The dimension of each operator's weight that holds the output channels.
_OUTPUT_AXIS = {"CONV_2D": 0, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3}
_WEIGHT_INPUT = {"CONV_2D": 1, "TRANSPOSE_CONV": 1, "FULLY_CONNECTED": 1, "DEPTHWISE_CONV_2D": 1}


@dataclass
class Match:
    """Which ONNX tensor every TFLite tensor takes its range from."""

    sources: dict[str, str] = field(default_factory=dict)
    inherited: dict[str, str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)


def quantize(float_tflite: Path, float_onnx: Path, ranges: Ranges, target: Path) -> Match:
    """Write the int8 file, full-integer input and output included, and return how its tensors were matched.

    Args:
        float_tflite: What onnx2tf made of ``float_onnx``.
        float_onnx: The float half of `qdq.split`.
        ranges: The other half.
        target: Where the int8 file goes.

    Raises:
        ConversionError: When a tensor has no learned range, or ai-edge-quantizer refuses the model.
    """
    from ai_edge_quantizer import quantizer, recipe

    model = flatbuffer.read(float_tflite)
    match = Match()
    statistics = _weight_statistics(model, float_onnx, ranges, match)
    learned = _activation_ranges(model, float_tflite, float_onnx, ranges, match)
    if match.unmatched:
        raise ConversionError(
            f"{len(match.unmatched)} tensors of {float_tflite.name} match no tensor of the quantized PyTorch graph, "
            f"first {match.unmatched[0]!r}: their ranges are unknown"
        )
    ranks = {flatbuffer.tensor_name(tensor): len(tensor.shape) for tensor in model.subgraphs[0].tensors}
    statistics |= {name: _statistic(range_, ranks[name]) for name, range_ in learned.items()}
    try:
        with runtimes.silent_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how ai-edge-quantizer itself opens an interpreter
            worker = quantizer.Quantizer(str(float_tflite), recipe.static_wi8_ai8())
            content = worker.quantize(statistics).quantized_model
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConversionError(f"ai-edge-quantizer refused {float_tflite.name}: {error}") from error
    quantized = flatbuffer.parse(bytes(content), target.name)
    integer_ops.absorb(quantized)
    integer_ops.restore_grids(quantized, learned)
    integer_ops.drop_idle(quantized)
    flatbuffer.write(quantized, target)
    return match


def _weight_statistics(model: Any, float_onnx: Path, ranges: Ranges, match: Match) -> dict[str, Any]:
    """Return min and max per channel of every weight, found by the sorted values of each output channel."""
    arrays = qdq.constants(onnx.load(str(float_onnx)))
    known = {
        name: (_channels(arrays[name], range_.axis), range_)
        for name, range_ in ranges.items()
        if range_.axis is not None and name in arrays
    }
    statistics = {}
    graph = model.subgraphs[0]
    for operator in graph.operators:
        kind = flatbuffer.op_name(model, operator)
        if kind not in _OUTPUT_AXIS:
            continue
        tensor = graph.tensors[operator.inputs[_WEIGHT_INPUT[kind]]]
        values = flatbuffer.constant(model, tensor)
        if values is None:
            continue
        axis, name = _OUTPUT_AXIS[kind], flatbuffer.tensor_name(tensor)
        found = _find(_channels(values, axis), {key: channels for key, (channels, _) in known.items()})
        if found is None:
            match.unmatched.append(name)
            continue
        shape = [1] * values.ndim
        shape[axis] = -1
        low, high = known[found][1].limits
        statistics[name] = {"min": low.reshape(shape), "max": high.reshape(shape)}
        match.sources[name] = found
    return statistics


def _activation_ranges(
    model: Any, float_tflite: Path, float_onnx: Path, ranges: Ranges, match: Match
) -> dict[str, Range]:
    """Return the range of every activation, found by the sorted values of each on one random input."""
    source = onnx.load(str(float_onnx))
    sample = _random_input(source)
    wanted = {name for name, range_ in ranges.items() if range_.axis is None}
    values = runtimes.onnx_values(source, wanted, sample) | qdq.constants(source)
    known = {name: np.sort(values[name].ravel()) for name in wanted & set(values)}
    computed = runtimes.tflite_values(float_tflite, sample)
    graph = model.subgraphs[0]
    chosen: dict[str, Range] = {}
    operands = {i for op in graph.operators if flatbuffer.op_name(model, op) in ("ADD", "MUL") for i in op.inputs}
    for index, tensor in enumerate(graph.tensors):
        name = flatbuffer.tensor_name(tensor)
        if index in computed and (index in operands or flatbuffer.constant(model, tensor) is None):
            found = _find(np.sort(computed[index].values.ravel()), known)
            if found is not None:
                match.sources[name] = found
                chosen[name] = ranges[found]
    _inherit(model, graph, chosen, match)
    return chosen


def _inherit(model: Any, graph: Any, chosen: dict[str, Range], match: Match) -> None:
    """Give the tensors that the converter added (a PAD, a RESHAPE) the range of the tensor that they move."""
    names = [flatbuffer.tensor_name(tensor) for tensor in graph.tensors]
    for index, origin in moves.origins(model, [i for i, name in enumerate(names) if name in chosen]).items():
        chosen[names[index]] = chosen[names[origin]]
        match.inherited[names[index]] = names[origin]
    computed = {names[index] for op in graph.operators for index in op.outputs} | {names[i] for i in graph.inputs}
    match.unmatched.extend(
        flatbuffer.tensor_name(tensor)
        for tensor in graph.tensors
        if flatbuffer.tensor_name(tensor) in computed - set(chosen) and tensor.type == 0
    )


def _statistic(range_: Range, rank: int) -> dict[str, NDArray[np.float64]]:
    low, high = range_.limits
    return {"min": low.reshape([1] * rank), "max": high.reshape([1] * rank)}


def _channels(values: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """Return ``[channels, n]`` with the values of every channel sorted."""
    rows = np.moveaxis(values, axis or 0, 0).reshape(values.shape[axis or 0], -1)
    return np.sort(rows, axis=1)


def _find(values: NDArray[Any], candidates: dict[str, NDArray[Any]]) -> str | None:
    """Return the candidate that holds the same values, the nearest one when several do."""
    tolerance = 1e-4 * max(float(np.abs(values).max(initial=0.0)), 1e-6)
    distances = {
        name: float(np.abs(candidate - values).max(initial=0.0))
        for name, candidate in candidates.items()
        if candidate.shape == values.shape
    }
    close = [name for name, distance in distances.items() if distance <= tolerance]
    return min(close, key=distances.__getitem__, default=None)


def _random_input(source: onnx.ModelProto) -> NDArray[np.float32]:
    item = source.graph.input[0]
    shape = [dimension.dim_value or 1 for dimension in item.type.tensor_type.shape.dim]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
