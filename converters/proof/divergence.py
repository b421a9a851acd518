"""Find the first operation at which a converted file stops computing what its source computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from torchshrink.converters import qdq
from torchshrink.converters.onnx_file import load
from torchshrink.converters.proof import traces
from torchshrink.converters.proof.traces import Step
from torchshrink.model import signature
from torchshrink.model.signature import Inputs


@dataclass(frozen=True)
class Divergence:
    """Where a file and its source part.

    Attributes:
        operation: The kind of the source's operation.
        tensor: What the source calls its result.
        file_operation: The kind of the operation in the file that computes something else; None when no tensor of the
            file has that many values.
        file_tensor: What the file calls that.
        error: How far apart all but a hundredth of the values are.
        allowed: How far apart they may be.
        expected: What the source computes.
        computed: What the file computes, in its layout.
    """

    operation: str
    tensor: str
    file_operation: str | None
    file_tensor: str | None
    error: float
    allowed: float
    expected: NDArray[Any] = field(repr=False, compare=False)
    computed: NDArray[Any] | None = field(repr=False, compare=False)

    def __str__(self) -> str:
        if self.file_tensor is None:
            return f"{self.operation} {self.tensor} (no tensor of the file has as many values)"
        return (
            f"{self.operation} {self.tensor} (in the file {self.file_operation} {self.file_tensor}, which differs by "
            f"{self.error:.3g}, allowed {self.allowed:.3g})"
        )


def first(path: Path, source: onnx.ModelProto, sample: Inputs, model: nn.Module | None = None) -> Divergence | None:
    """Name the first operation of ``source`` whose result appears nowhere in the file at ``path``.

    Intermediate tensors are compared by value, in the order of the graph, on one input. Results that a converter may
    have fused away are passed over. What the file computes instead is the result of the first operation with as many
    values that reads what the source's operation reads.

    Args:
        path: The TFLite or ONNX file that failed.
        source: The ONNX graph it was made from; for an ONNX file, of the same export.
        sample: ``[N, C, *size]``, or one for each input; the first of N is used.
        model: For an ONNX file: the PyTorch model, whose tensors are then the ones to find.

    Returns:
        None when every tensor was found.
    """
    arguments = signature.first(sample)
    arrays = [value.numpy() for value in arguments]
    is_int8 = qdq.is_quantized(source)
    if path.suffix == ".tflite":
        expected = traces.of_onnx(source, arrays, is_int8)
        found = traces.of_tflite(path, arrays)
    else:
        expected = traces.of_torch(model, arguments) if model is not None else []
        found = traces.of_onnx(load(path), arrays, is_int8)
    same: dict[str, set[str]] = {}  # the file's tensors that hold what each of the source's does
    for step in expected:
        distances = {each.key: distance(step.values, each.values) for each in found if _has_size_of(each, step)}
        same[step.key] = {key for key, apart in distances.items() if apart <= step.allowed}
        if not same[step.key]:
            return _describe(step, _counterpart(step, found, same, distances), distances)
    return None


def distance(value: NDArray[Any], other: NDArray[Any]) -> float:
    """Return how far apart all but a hundredth of the values are, in the best of the layouts that fit.

    A converter may have moved axes, as from channels first to last. Only when no order of the axes gives the other
    shape, because values were also regrouped, are they compared sorted: other tensors can look alike then.

    Args:
        value: An array.
        other: Another one of as many values.
    """
    value, other = value.squeeze(), other.squeeze()
    orders = [order for order in permutations(range(other.ndim)) if other.transpose(order).shape == value.shape]
    layouts = [other.transpose(order) for order in orders]
    if not layouts:
        value, layouts = np.sort(value.ravel()), [np.sort(other.ravel())]
    with np.errstate(invalid="ignore"):  # what is not a number is far from everything
        return min(float(np.nan_to_num(np.quantile(np.abs(each - value), 0.99), nan=np.inf)) for each in layouts)


def _counterpart(step: Step, found: list[Step], same: dict[str, set[str]], distances: dict[str, float]) -> Step | None:
    """Return the file's step in the place of the source's: the next one that follows what it was computed from."""
    matched = set().union(*same.values())
    reached = set().union(*(same[parent] for parent in step.parents))
    if not step.parents:
        reached = {each.key for each in found if each.operation == traces.INPUT}
    while following := [each for each in found if each.key not in reached and _follows(each, step, reached)]:
        for each in following:
            if each.key in distances and each.key not in matched:
                return each
        reached |= {each.key for each in following}
    nearest = min(distances, key=distances.__getitem__, default=None)
    return next((each for each in found if each.key == nearest), None)


def _follows(each: Step, step: Step, reached: set[str]) -> bool:
    is_first = not each.parents and each.operation not in (traces.INPUT, traces.CONSTANT)
    return bool(each.parents & reached) or (is_first and not step.parents)


def _describe(step: Step, instead: Step | None, distances: dict[str, float]) -> Divergence:
    return Divergence(
        step.operation,
        step.tensor,
        None if instead is None else instead.operation,
        None if instead is None else instead.tensor,
        float("inf") if instead is None else distances[instead.key],
        step.allowed,
        step.values,
        None if instead is None else instead.values,
    )


def _has_size_of(step: Step, other: Step) -> bool:
    return step.values.size == other.values.size
