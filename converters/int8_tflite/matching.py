"""Find which tensor of a float TFLite file is which tensor of the ONNX file that it was made from.

Converters rename, fuse, split and reorder tensors; what survives is their values. Two tensors are the same when their
sorted values are, on two random inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torchshrink.converters import onnx_file, runtimes
from torchshrink.converters.correspondence import distances, nearest, origins
from torchshrink.converters.ranges import Range, Ranges
from torchshrink.converters.tflite_file import Graph
from torchshrink.converters.tflite_ops import row
from torchshrink.errors import ConversionError

# The same numbers, computed in another order: a share of the largest one. Nearer ones than this are not told apart.
_TOLERANCE, _NOISE = 1e-4, 1e-5
# Largest difference of an output, as a share of its range, that is still the same model.
_WRONG = 1e-3


@dataclass
class Match:
    """Where every tensor of a TFLite file has its range from.

    Attributes:
        sources: The ONNX tensor that each one is.
        inherited: For what a converter added and only moves values: the TFLite tensor whose range it has.
        calibrated: What a converter added inside of one quantized operation: its range was seen on sample inputs.
        floating: Activations that stay float, because nothing is known of their range.
        quantized: Activations that are int8.
    """

    sources: dict[str, str] = field(default_factory=dict)
    inherited: dict[str, str] = field(default_factory=dict)
    calibrated: list[str] = field(default_factory=list)
    floating: list[str] = field(default_factory=list)
    quantized: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of the int8 activations whose range was learned, in [0, 1]."""
        learned = set(self.quantized) - set(self.calibrated)
        return len(learned) / len(self.quantized) if self.quantized else 0.0


def samples(source: onnx.ModelProto) -> list[list[NDArray[Any]]]:
    """Return two random inputs of a model, of different size: tensors that agree on one differ on the other."""
    first, second = onnx_file.random_inputs(source), onnx_file.random_inputs(source, seed=1)
    return [first, [(2 * value).astype(value.dtype) for value in second]]


def weights(graph: Graph, source: onnx.ModelProto, ranges: Ranges, match: Match) -> dict[int, Range]:
    """Return the range of every weight, one scale for each of its output channels, by tensor.

    A converter may keep a part of the channels in a tensor of its own (groups); those are found too.

    Args:
        graph: Of the float TFLite model.
        source: The float ONNX model.
        ranges: By the name of an ONNX tensor.
        match: Receives what was found.
    """
    arrays = onnx_file.constants(source)
    known = {
        name: channels(arrays[name], range_.axis)
        for name, range_ in ranges.items()
        if range_.axis is not None and name in arrays
    }
    found: dict[int, Range] = {}
    for operator in graph.operators:
        op = row(graph.kind(operator))
        index = operator.inputs[op.weight] if op.weight is not None else -1
        values = graph.constant(index) if index >= 0 else None
        if values is None or op.axis is None or index in found:
            continue
        place = _find_channels(channels(values, op.axis), known, set(match.sources.values()))
        if place is not None:
            name, start = place
            stop = start + values.shape[op.axis]
            match.sources[graph.name(index)] = name
            found[index] = Range(ranges[name].scale[start:stop], ranges[name].zero_point[start:stop], op.axis)
    return found


def activations(graph: Graph, path: Path, source: onnx.ModelProto, ranges: Ranges, match: Match) -> dict[int, Range]:
    """Return the range of every activation and of every constant that is added or multiplied, by tensor.

    Args:
        graph: Of the float TFLite model.
        path: Its file.
        source: The float ONNX model.
        ranges: By the name of an ONNX tensor.
        match: Receives what was found.

    Raises:
        ConversionError: When the TFLite file does not compute what the ONNX file computes.
    """
    wanted = {name for name, range_ in ranges.items() if range_.axis is None}
    seen_before, seen_after = _values(source, path, wanted, graph)
    _check_outputs(graph, path, source, seen_before, seen_after)
    seen_before = {name: values for name, values in seen_before.items() if name in wanted}
    inputs_before = {name: list(node.input) for node in source.graph.node for name in node.output}
    order = {name: position for position, name in enumerate(inputs_before)}
    inputs_after = {index: list(operator.inputs) for operator in graph.operators for index in operator.outputs}

    def before(name: str) -> list[str]:
        return inputs_before.get(name, [])

    def before_index(index: int) -> list[int]:
        return inputs_after.get(index, [])

    parents = {name: set(nearest(before(name), wanted, before)) for name in seen_before}
    chosen: dict[int, str] = {}
    for index in _in_order(graph):
        if index not in seen_after:
            continue
        near = {chosen[each] for each in nearest(before_index(index), chosen, before_index)}

        def preference(name: str, near: set[str] = near) -> tuple[bool, bool, int, bool, int]:
            is_used = name in chosen.values()
            is_next = near == parents[name] and not is_used
            return not is_next, name not in near, len(near ^ parents[name]), is_used, order.get(name, -1)

        tied = _tied(seen_after[index], seen_before)
        if not tied and near:
            sources = {name: seen_before[name] for name in near}
            heirs = {
                name: values
                for name, values in seen_before.items()
                if parents[name] and all(_tied(seen_before[each], sources) for each in parents[name])
            }
            tied = _cancelled(seen_after[index], heirs, sources)
        if tied:  # the next tensor of the graph, or else a copy of the one that it is made of
            chosen[index] = min(tied, key=preference)
    match.sources |= {graph.name(index): name for index, name in chosen.items()}
    grids = {index: ranges[name] for index, name in chosen.items()}
    for index, origin in origins(graph, grids).items():
        if not grids[origin].is_partial:  # who reads what is moved there is not known
            grids[index] = grids[origin]
            match.inherited[graph.name(index)] = graph.name(origin)
    return grids


def channels(values: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """Return ``[channels, n]`` with the values of every channel sorted."""
    rows = np.moveaxis(values, axis or 0, 0).reshape(values.shape[axis or 0], -1)
    return np.sort(rows, axis=1)


def computed(graph: Graph) -> set[int]:
    """Return the float tensors of a TFLite graph that are not constants: its inputs, and what operators compute."""
    found = {int(index) for operator in graph.operators for index in operator.outputs} | set(graph.inputs)
    return {index for index in found if graph.is_float(index)}


def _check_outputs(
    graph: Graph,
    path: Path,
    source: onnx.ModelProto,
    before: Mapping[str, NDArray[Any]],
    after: Mapping[int, NDArray[Any]],
) -> None:
    """Refuse a file that the converter made wrong: ranges would be put on tensors that were never theirs."""
    rounded = runtimes.rounding(source)
    for item, index in zip(source.graph.output, graph.outputs, strict=True):
        expected, found = before[item.name], after.get(index)
        if found is None:  # integers, such as classes
            continue
        # Of two inputs one is enough: a deep model amplifies the rounding of numbers unlike any that it was made for.
        off = [
            float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else np.inf
            for a, b in zip(expected, found, strict=True)
        ]
        allowed = [max(_WRONG * runtimes.spread(a), rounded[item.name]) for a in expected]
        if not any(worst <= most for worst, most in zip(off, allowed, strict=True)):
            worst = min(off)
            raise ConversionError(
                f"{path.name} does not compute what its ONNX file computes: output {item.name!r} is off by {worst:.2g};"
                " torchshrink verify --precision fp32 names the first operation that onnx2tf converted wrong"
            )


def _values(
    source: onnx.ModelProto, path: Path, wanted: set[str], graph: Graph
) -> tuple[dict[str, NDArray[Any]], dict[int, NDArray[Any]]]:
    """Return ``[inputs, n]`` with the sorted values of every tensor, of the ONNX and of the TFLite model."""
    before: dict[str, list[NDArray[Any]]] = {}
    after: dict[int, list[NDArray[Any]]] = {}
    kept, ends = set(_in_order(graph)), {item.name for item in source.graph.output}
    constants = {name: value for name, value in onnx_file.constants(source).items() if name in wanted}
    for sample in samples(source):
        for name, value in (runtimes.onnx_values(source, wanted, sample) | constants).items():
            if name in wanted | ends:
                before.setdefault(name, []).append(np.sort(value, axis=None))
        for index, tensor in runtimes.tflite_values(path, sample).items():
            if index in kept:
                after.setdefault(index, []).append(np.sort(tensor.values, axis=None))
    return (
        {name: np.stack(rows) for name, rows in before.items()},
        {index: np.stack(rows) for index, rows in after.items()},
    )


def _in_order(graph: Graph) -> list[int]:
    """Return the tensors that need a range, those that an operator reads before those that it computes."""
    found = dict.fromkeys(graph.inputs)
    for operator in graph.operators:
        if row(graph.kind(operator)).is_pair:
            found |= dict.fromkeys(int(index) for index in operator.inputs)
        found |= dict.fromkeys(int(index) for index in operator.outputs)
    return list(found)


def _tied(values: NDArray[Any], candidates: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the candidates that hold the same values and of which none is nearer than another."""
    size = max(float(np.abs(values).max(initial=0.0)), 1e-6)
    found = distances(values, candidates, partial(np.max, initial=0.0))
    limit = min(_TOLERANCE * size, min(found.values(), default=0.0) + _NOISE * size)
    return [name for name, distance in found.items() if distance <= limit]


def _cancelled(
    values: NDArray[Any], candidates: Mapping[str, NDArray[Any]], sources: Mapping[str, NDArray[Any]]
) -> list[str]:
    """Return the candidates that hold these values but for rounding, which is a share of what both are computed from.

    The mean of what has been centred is zero, or little where something little was added since; each runtime has
    another one, and int8 has half a step.
    """
    limit = _NOISE * max(float(np.abs(each).max(initial=0.0)) for each in sources.values())
    found = distances(values, candidates, partial(np.max, initial=0.0))
    return [name for name, distance in found.items() if distance <= limit]


def _find_channels(values: NDArray[Any], known: Mapping[str, NDArray[Any]], used: set[str]) -> tuple[str, int] | None:
    """Return the weight that holds these channels, and at which of its own they begin."""
    tied = _tied(values, known)
    if tied:
        return min(tied, key=lambda name: name in used), 0
    limit = _TOLERANCE * max(float(np.abs(values).max(initial=0.0)), 1e-6)
    for name, candidate in known.items():
        if candidate.shape[1] != values.shape[1]:
            continue
        for start in range(len(candidate) - len(values) + 1):
            if np.abs(candidate[start : start + len(values)] - values).max(initial=0.0) <= limit:
                return name, start
    return None
