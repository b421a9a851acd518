"""Take an ONNX or TFLite file apart: what computes in int8, what in float, what that costs, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchshrink.converters.anatomy import findings
from torchshrink.converters.anatomy.kernels import Runtime
from torchshrink.converters.anatomy.operations import Detour, Operation, Precision, detours
from torchshrink.errors import ModelError, RecipeError
from torchshrink.runtime import apart
from torchshrink.runtime.processors import has_dot_products, instructions
from torchshrink.settings import check_threads

SCHEMA = 1
FORMATS = (".onnx", ".tflite")
_METHODS: dict[Runtime, str] = {
    "LiteRT": "LiteRT has no profiler in Python: each operator was timed in a file of its own, equal ones once",
    "ONNX Runtime": "ONNX Runtime's profiler, on the graph as it optimized it",
}


@dataclass(frozen=True)
class Anatomy:
    """A file as its runtime runs it.

    Attributes:
        path: The file.
        runtime: What runs it.
        threads: How many the runtime was given.
        runs: How many inferences were timed.
        operations: In the order of the file, without what is computed only once, when the file is loaded.
        detours: The stretches of float in an int8 file.
        file_ms: The median time of an inference of the whole file.
        method: How the times of the operations were found.
        verdict: The whole file in one sentence.
        findings: Why it is slow and what would help, a sentence for each cause.
    """

    path: Path
    runtime: Runtime
    threads: int
    runs: int
    operations: tuple[Operation, ...]
    detours: tuple[Detour, ...]
    file_ms: float
    method: str
    verdict: str
    findings: tuple[str, ...]

    @property
    def is_float(self) -> bool:
        """Whether nothing computes in int8."""
        return all(operation.precision != "int8" for operation in self.operations)

    @property
    def operations_ms(self) -> float:
        """What the operations took together; compare with ``file_ms``."""
        return findings.total_ms(self.operations)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(operation.macs for operation in self.operations)

    @property
    def unmeasured(self) -> tuple[Operation, ...]:
        """The operations whose time is unknown."""
        return tuple(operation for operation in self.operations if operation.ms is None)

    def share_of_macs(self, precision: Precision) -> float:
        """Return a share of the multiply-accumulates in [0, 1]; 0 where there are none."""
        found = sum(operation.macs for operation in self.operations if operation.precision == precision)
        return found / max(self.macs, 1)

    def share_of_time(self, precision: Precision) -> float:
        """Return a share of ``operations_ms`` in [0, 1]; 0 where nothing was measured."""
        found = findings.total_ms([item for item in self.operations if item.precision == precision])
        return found / self.operations_ms if self.operations_ms else 0.0


def inspect(path: Path | str, *, runs: int = 30, threads: int = 1, shape: Sequence[int] | None = None) -> Anatomy:
    """Read a file, time its operations and explain what is slow.

    Args:
        path: An ``.onnx`` or ``.tflite`` file.
        runs: Timed inferences.
        threads: How many threads the runtime may use.
        shape: Of the input, for ONNX files that take any size.

    Raises:
        ModelError: When the file cannot be read or run, or has another ending.
        ConversionError: When ONNX Runtime refuses the file.
        RecipeError: When ``runs`` is not positive.
    """
    if runs < 1:
        raise RecipeError(f"runs={runs}: measuring needs at least 1")
    check_threads(threads)
    path = Path(path)
    runtime: Runtime
    if path.suffix == ".onnx":  # each kind of file asks for its own runtime only
        from torchshrink.converters.anatomy import onnx_operations

        runtime = "ONNX Runtime"
        operations, file_ms = apart.call(onnx_operations.timed, path, threads=threads, runs=runs, shape=shape)
    elif path.suffix == ".tflite":
        runtime = "LiteRT"
        operations, file_ms = _timed_tflite(path, runs, threads)
    else:
        raise ModelError(f"{path} cannot be taken apart: expected a file in {' or '.join(FORMATS)}")
    found = detours(operations)
    return Anatomy(
        path,
        runtime,
        threads,
        runs,
        tuple(operations),
        found,
        file_ms,
        _METHODS[runtime],
        findings.verdict(operations, found),
        (
            *findings.findings(operations, found, runtime),
            *_of_processor(operations, runtime),
        ),
    )


def _of_processor(operations: Sequence[Operation], runtime: Runtime) -> tuple[str, ...]:
    """Say that int8 saves no time here, unless the probe shows that it does."""
    if has_dot_products() or not findings.multiplies(operations):
        return ()
    try:  # the probe makes files of both formats
        from torchshrink.converters import probe
    except ModuleNotFoundError:
        return findings.processor(operations, instructions(), False)
    gain = probe.int8_gain((runtime,))[runtime]
    return findings.processor(operations, instructions(), False, gain) if gain < probe.WORTH_IT else ()


def _timed_tflite(path: Path, runs: int, threads: int) -> tuple[list[Operation], float]:
    from torchshrink.converters import tflite_file
    from torchshrink.converters.anatomy import op_times, tflite_operations

    model = tflite_file.read(path)
    tflite_file.check_ends(model, str(path))
    operations, positions = tflite_operations.read(model)
    file_ms, times = apart.call(op_times.timed, path, threads=threads, positions=positions, runs=runs)
    return [replace(operation, ms=ms) for operation, ms in zip(operations, times, strict=True)], file_ms


def to_dict(anatomy: Anatomy) -> dict[str, Any]:
    """Return everything as JSON has it; tensors are named as in the file, operations as ``KIND tensor``."""
    return {
        "schema": SCHEMA,
        "path": str(anatomy.path),
        "runtime": anatomy.runtime,
        "threads": anatomy.threads,
        "runs": anatomy.runs,
        "verdict": anatomy.verdict,
        "findings": list(anatomy.findings),
        "macs": anatomy.macs,
        "int8_share": {"macs": anatomy.share_of_macs("int8"), "time": anatomy.share_of_time("int8")},
        "float_share": {"macs": anatomy.share_of_macs("float"), "time": anatomy.share_of_time("float")},
        "conversion_share": {"time": anatomy.share_of_time("conversion")},
        "file_ms": anatomy.file_ms,
        "operations_ms": anatomy.operations_ms,
        "method": anatomy.method,
        "islands": [] if anatomy.is_float else [item.label for each in anatomy.detours for item in each.operations],
        "detours": [] if anatomy.is_float else [_detour_dict(item, anatomy) for item in anatomy.detours],
        "operations": [asdict(operation) for operation in anatomy.operations],
    }


def _detour_dict(detour: Detour, anatomy: Anatomy) -> dict[str, Any]:
    return {
        "from": [operation.label for operation in detour.sources],
        "dequantize": [tensor for operation in detour.entries for tensor in operation.inputs],
        "operations": [operation.label for operation in detour.operations],
        "quantize": [tensor for operation in detour.exits for tensor in operation.inputs],
        "to": [operation.label for operation in detour.targets],
        "dequantized_weights": [operation.name for operation in detour.weights],
        "ms": detour.ms,
        "time_share": detour.ms / anatomy.operations_ms if anatomy.operations_ms else 0.0,
    }


def find_islands(path: Path) -> tuple[str, ...]:
    """Return the float operations of an int8 ONNX or TFLite file, by kind and tensor.

    Conversions between int8 and float are not listed; `anatomy` has them, with what they cost.

    Raises:
        ModelError: When the file is not TFLite.
        ConversionError: When ONNX Runtime refuses the file.
    """
    if path.suffix == ".tflite":
        from torchshrink.converters import tflite_file
        from torchshrink.converters.anatomy import tflite_operations

        operations, _ = tflite_operations.read(tflite_file.read(path))
    else:
        from torchshrink.converters.anatomy import onnx_operations

        operations = onnx_operations.read(path)
    return tuple(operation.label for detour in detours(operations) for operation in detour.operations)
