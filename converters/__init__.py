"""The bridge from PyTorch to ONNX and TFLite: export, convert, transfer learned ranges, verify.

What is below is loaded on first use: a process that only runs a file needs no PyTorch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchshrink.converters.export.to_onnx import to_onnx
    from torchshrink.converters.tflite import to_tflite

# Recent versions of ONNX Runtime write a device identifier when they are imported, unless told not to before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["to_onnx", "to_tflite"]


def __getattr__(name: str) -> Any:
    if name == "to_onnx":
        from torchshrink.converters.export.to_onnx import to_onnx

        return to_onnx
    if name == "to_tflite":
        from torchshrink.converters.tflite import to_tflite

        return to_tflite
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
