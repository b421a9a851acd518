"""The bridge from PyTorch to ONNX and TFLite: export, convert, transfer learned ranges, verify.

What needs torch is loaded on first use: a file is inspected and measured where torch is not installed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torchshrink.lazy import lazy

# Recent versions of ONNX Runtime write a device identifier when they are imported, unless told not to before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from torchshrink.converters.export.to_onnx import to_onnx
    from torchshrink.converters.rebuild.from_onnx import from_onnx
    from torchshrink.converters.tflite import to_tflite

__all__ = ["from_onnx", "to_onnx", "to_tflite"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "torchshrink.converters.export.to_onnx": "to_onnx",
        "torchshrink.converters.rebuild.from_onnx": "from_onnx",
        "torchshrink.converters.tflite": "to_tflite",
    },
)
