"""What operators cost on one processor, by their shapes, and what a file will take there that was never run on it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy import op_times, tflite_operations
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import DataError
from torchshrink.files import read
from torchshrink.runtime import apart

KEY = "costs"  # in what `torchshrink bench --save` writes
_RUNS = 30
_LEAST_SHARE = 0.1  # of the time that an operator took alone, which is its own
_LEAST = 1e-4  # ms, of an operator whose like was never measured
_DENSE = ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")  # whose weights begin and end with channels
_GROUP = 8  # channels that XNNPACK's int8 kernels compute together


@dataclass(frozen=True)
class Cost:
    """An operator of a file.

    Attributes:
        kind: The format's name of it and what it computes in: ``CONV_2D int8``.
        shape: All that decides its time: the sides of what it reads, its weights and its output, and its stride.
        macs: Multiply-accumulates.
        bytes: That it reads and writes.
        ms: How long it takes; None where that was not measured.
    """

    kind: str
    shape: str
    macs: int
    bytes: int
    ms: float | None = None


def operators(path: Path) -> list[Cost]:
    """Return the operators of a TFLite file, not measured.

    Raises:
        ModelError: When it is none.
    """
    return _described(tflite_file.read(path))[0]


def measure(paths: Sequence[Path], threads: int) -> dict[str, Any]:
    """Return the costs of all operators of some files here, as JSON-like data.

    Raises:
        ModelError: When LiteRT does not run a file.
    """
    files = []
    for path in paths:
        described, positions = _described(tflite_file.read(path))
        whole, times = apart.call(op_times.timed, path, threads=threads, positions=positions, runs=_RUNS)
        rows = [{"kind": each.kind, "shape": each.shape, "macs": each.macs, "bytes": each.bytes, "ms": ms}
                for each, ms in zip(described, times, strict=True)]  # fmt: skip
        files.append({"name": path.name, "threads": threads, "ms": whole, "operators": rows})
    return {"files": files}


class Costs:
    """Tells the latency of files on the processor that some were measured on.

    An operator of a known kind and shape takes what it took there. Others of a known kind take what lies between those
    measured: each multiply-accumulate and each byte adds to a time that every call takes, by least squares of the
    relative error. What each takes longer in a file of its own is left out, and what is left of a whole file's time
    is a share of its operators'.

    Args:
        content: What `measure` returned.
        source: What errors call it.

    Raises:
        DataError: When it holds no operators.

    Attributes:
        processor: That they were measured on.
    """

    def __init__(self, content: Mapping[str, Any], source: str) -> None:
        self.processor = "an unknown processor"
        try:
            self._files = [_File(each["name"], float(each["ms"]), [Cost(**row) for row in each["operators"]])
                           for each in content["files"]]  # fmt: skip
            self._learn(self._files)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{source} holds no costs of operators that can be used: {_remedy(source)}") from error
        if not self._known:
            raise DataError(
                f"{source} holds no costs of operators, since no TFLite file was measured: {_remedy(source)}"
            )

    @classmethod
    def load(cls, path: Path) -> Costs:
        """Read what ``torchshrink bench FILES.tflite --save PATH`` wrote.

        Raises:
            DataError: When there is none, or it holds no costs.
        """
        try:
            content = json.loads(read(path))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {_remedy(str(path))}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is damaged: {_remedy(str(path))}") from error
        found = cls(content.get(KEY, {}) if isinstance(content, dict) else {}, str(path))
        if isinstance(machine := content.get("environment"), dict):
            found.processor = str(machine.get("processor", found.processor))
        return found

    def of_file(self, path: Path) -> float:
        """Return the latency of a file in ms. Raises as `operators`."""
        return self._of(operators(path))

    def error(self) -> float | None:
        """Return the median relative error for each file of what the others tell; None of fewer than three files."""
        if len(self._files) < 3:
            return None
        errors = []
        for left_out in self._files:
            others = Costs.__new__(Costs)
            others._files = [each for each in self._files if each is not left_out]
            others._learn(others._files)
            if others._known:
                errors.append(abs(others._of(left_out.operators) / left_out.ms - 1))
        return statistics.median(errors) if errors else None

    def _learn(self, files: Sequence[_File]) -> None:
        measured = [each for file in files for each in file.operators if each.ms is not None]
        times: dict[tuple[str, str], list[float]] = {}
        for each in measured:
            times.setdefault((each.kind, each.shape), []).append(float(each.ms or 0.0))
        self._known = {key: statistics.median(found) for key, found in times.items()}
        kinds = {each.kind for each in measured}
        self._rates = {kind: _fitted([each for each in measured if each.kind == kind]) for kind in kinds}
        self._alone = self._time_alone(files)
        shares = [file.ms / total for file in files if (total := self._sum(file.operators)) > 0]
        self._share = statistics.median(shares) if shares else 1.0

    def _of(self, found: Sequence[Cost]) -> float:
        return self._share * self._sum(found)

    def _sum(self, found: Sequence[Cost]) -> float:
        costs = [self._cost(each) for each in found]
        return sum(max(cost - self._alone, cost * _LEAST_SHARE) for cost in costs)

    def _time_alone(self, files: Sequence[_File]) -> float:
        """Return what every operator takes longer in a file of its own: what brings whole files nearest to their sums.

        At most what the fastest operator took.
        """
        times = [each.ms for file in files for each in file.operators if each.ms]
        counts = [len(file.operators) for file in files]
        excess = [(sum(map(self._cost, file.operators)) - file.ms) / count
                  for file, count in zip(files, counts, strict=True) if count]  # fmt: skip
        return min(max(0.0, statistics.median(excess)), min(times)) if times and excess else 0.0

    def _cost(self, each: Cost) -> float:
        known = self._known.get((each.kind, each.shape))
        if known is not None:
            return known
        rates = self._rates.get(each.kind) or self._like(each.kind)
        return max(_LEAST, sum(rate * amount for rate, amount in zip(rates, _amounts(each), strict=True)))

    def _like(self, kind: str) -> tuple[float, ...]:
        """Return the rates of the kind that was measured most like an unknown one: of the same precision, if any is."""
        _, _, precision = kind.rpartition(" ")
        alike = [rates for known, rates in self._rates.items() if known.endswith(f" {precision}")]
        alike = alike or list(self._rates.values())
        return tuple(statistics.median(each) for each in zip(*alike, strict=True)) if alike else (_LEAST, 0.0, 0.0)


@dataclass(frozen=True)
class _File:
    name: str
    ms: float
    operators: list[Cost]


def _described(model: Any) -> tuple[list[Cost], list[int]]:
    graph = Graph(model)
    found, positions = tflite_operations.read(model)
    costs = []
    for operation, position in zip(found, positions, strict=True):
        operator = graph.operators[position]
        tensors = [graph.tensors[int(index)] for index in (*operator.outputs, *operator.inputs) if index >= 0]
        shapes = [[int(side) for side in tensor.shape] if tensor.shape is not None else [] for tensor in tensors]
        settings = vars(operator.builtinOptions) if operator.builtinOptions is not None else {}
        strides = [int(settings[name]) for name in ("strideH", "strideW") if name in settings]
        shape = " ".join("x".join(map(str, sides)) for sides in [*shapes, strides] if sides)
        moved = sum(math.prod(sides) * _width(tensor.type) for sides, tensor in zip(shapes, tensors, strict=True))
        costs.append(Cost(f"{operation.kind} {operation.precision}", shape, operation.macs, moved))
    return costs, positions


def _width(kind: int) -> int:
    """Return the bytes of a value of TFLite's type: float32, float16, int32 and int64 by number, else one."""
    return {0: 4, 1: 2, 2: 4, 4: 8, 7: 2}.get(kind, 1)


def _amounts(each: Cost) -> tuple[float, float, float]:
    return 1.0, each.macs * _filled(each), float(each.bytes)


def _filled(each: Cost) -> float:
    """Return how many times the multiply-accumulates an int8 kernel computes, which fills channels up to eights."""
    kind, _, precision = each.kind.rpartition(" ")
    sides = [part.split("x") for part in each.shape.split()]
    if precision != "int8" or kind not in _DENSE or len(sides) < 3 or len(sides[2]) < 2:
        return 1.0
    channels = [max(int(sides[2][place]), 1) for place in (0, -1)]  # of the result and of the input
    return math.prod(-(-count // _GROUP) * _GROUP / count for count in channels)


def _fitted(measured: Sequence[Cost]) -> tuple[float, float, float]:
    """Return the ms of a call, a multiply-accumulate and a byte, none of them negative, by least squares."""
    import numpy as np

    times = np.array([max(float(each.ms or 0.0), _LEAST) for each in measured])
    amounts = np.array([_amounts(each) for each in measured])
    kept = [column for column in range(3) if amounts[:, column].any()]
    while kept:
        scaled = amounts[:, kept] / times[:, None]
        found, *_ = np.linalg.lstsq(scaled, np.ones(len(times)), rcond=None)
        if (found >= 0).all():
            rates = [0.0, 0.0, 0.0]
            for column, rate in zip(kept, found, strict=True):
                rates[column] = float(rate)
            return rates[0], rates[1], rates[2]
        kept.pop(int(found.argmin()))
    return float(np.median(times)), 0.0, 0.0


def _remedy(source: str) -> str:
    return f"`torchshrink bench FILES.tflite --save {source}` on the device makes it"
