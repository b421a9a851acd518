"""List what an int8 file still computes in float, from the file as its runtime will run it."""

from __future__ import annotations

from pathlib import Path

from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy import onnx_operations, tflite_operations
from torchshrink.converters.anatomy.operations import detours


def find(path: Path) -> tuple[str, ...]:
    """Return the float operations of an int8 ONNX or TFLite file, by kind and tensor.

    Conversions between int8 and float are not listed; `anatomy` has them, with what they cost.

    Raises:
        ModelError: When the file is not TFLite.
        ConversionError: When ONNX Runtime refuses the file.
    """
    if path.suffix == ".tflite":
        operations, _ = tflite_operations.read(tflite_file.read(path))
    else:
        operations = onnx_operations.read(path)
    return tuple(operation.label for detour in detours(operations) for operation in detour.operations)
