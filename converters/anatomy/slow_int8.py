"""Say of int8 files where int8 saves no time: before one is shipped, and after it was timed beside float ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchshrink.converters.anatomy import findings, kernels
from torchshrink.converters.anatomy.inspect import FORMATS
from torchshrink.converters.anatomy.kernels import Runtime
from torchshrink.converters.anatomy.operations import Operation
from torchshrink.converters.contents import read_weights
from torchshrink.runtime.processors import has_dot_products, instructions

if TYPE_CHECKING:
    from onnx import ModelProto

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_INTEGERS = "QLinear"  # begins ONNX Runtime's names of what computes in int8
_ALIKE = 0.02  # of the weights: in two forms of a model small constants differ
_CODES, _FLOATS = ("int8", "uint8"), ("float16", "float32")


def expected(path: Path) -> tuple[str, ...]:
    """Return what is known of an int8 file's speed without running it; nothing of a file that computes in float.

    Args:
        path: An ``.onnx`` or a ``.tflite`` file.

    Raises:
        ModelError: When the file cannot be read.
    """
    runtime: Runtime = "ONNX Runtime" if path.suffix == ".onnx" else "LiteRT"
    if runtime == "ONNX Runtime":  # each kind of file asks for its own packages only
        from torchshrink.converters.onnx_file import load

        operations = _integer(load(path))
    else:
        from torchshrink.converters import tflite_file
        from torchshrink.converters.anatomy import tflite_operations

        operations, _ = tflite_operations.read(tflite_file.read(path))
    slower = list(dict.fromkeys(each.full_kind for each in operations if kernels.is_slower(each, runtime)))
    said = findings.processor(operations, instructions(), has_dot_products())
    if not slower:
        return said
    takes = "takes" if len(slower) == 1 else "take"
    return (
        f"{', '.join(slower)} {takes} longer in int8 than in float in {runtime}: torchshrink bench, with the float "
        "file beside it, shows whether the whole file does.",
        *said,
    )


def timed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each int8 file that took longer than its float form, which was timed beside it.

    That is the fastest float file of the same format with as many weights.

    Args:
        rows: Those of `torchshrink.bench.session.run`, of one number of threads.
    """
    files = [(row, *_weights(Path(row["path"]))) for row in rows if Path(row["path"]).suffix in FORMATS]
    lines = []
    for row, kind, count in files:
        suffix = Path(row["path"]).suffix
        alike = [
            other
            for other, its_kind, its_count in files
            if its_kind == "float" and Path(other["path"]).suffix == suffix and abs(its_count - count) <= _ALIKE * count
        ]
        if kind == "int8" and alike and _ms(row) > _ms(fastest := min(alike, key=_ms)):
            lines.append(
                f"{row['name']} is int8 and takes {_ms(row) / _ms(fastest):.2f} times as long as {fastest['name']}, "
                "its float form: torchshrink inspect says why; for speed ship the float file, or remove channels"
            )
    return lines


def _integer(model: ModelProto) -> list[Operation]:
    """Return the operations of an ONNX graph that compute between dequantized values and quantized ones."""
    from torchshrink.converters.anatomy import onnx_operations
    from torchshrink.converters.onnx_file import DEQUANTIZE, QUANTIZE, constants, producers

    sources, shapes = producers(model), {name: array.shape for name, array in constants(model).items()}
    read: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            read.setdefault(name, set()).add(node.op_type)
        if node.op_type == DEQUANTIZE and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    found = []
    for node in model.graph.node:
        before = {sources[name].op_type for name in node.input if name in sources}
        after = set().union(*(read.get(name, set()) for name in node.output))
        is_between = before == {DEQUANTIZE} and after == {QUANTIZE}
        if is_between or node.op_type.startswith(_INTEGERS):
            plain = node.op_type.removeprefix(_INTEGERS)
            kind = plain if plain in kernels.SLOWER_IN_INT8["ONNX Runtime"] else _INTEGERS + plain
            depthwise = onnx_operations.is_depthwise(node, shapes)
            found.append(Operation(kind, node.output[0], "int8", (), (), int(plain in _WEIGHTED), None, depthwise))
    return found


def _weights(path: Path) -> tuple[str, int]:
    """Return what the weights of a file are stored as, and how many they are."""
    arrays = [array for array in read_weights(path) if array.ndim > 1 and array.dtype.name in _CODES + _FLOATS]
    is_int8 = any(array.dtype.name in _CODES for array in arrays)
    return "int8" if is_int8 else "float", int(np.sum([array.size for array in arrays]))


def _ms(row: Mapping[str, Any]) -> float:
    median: float = row["latency_ms"]["median"]
    return median
