"""The bridge from PyTorch to ONNX and TFLite: export, convert, transfer learned ranges, verify.

What needs torch is loaded on first use: a file is inspected and measured where torch is not installed.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Recent versions of ONNX Runtime write a device identifier when they are imported, unless told not to before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from torchshrink.converters.export.to_onnx import to_onnx as to_onnx
    from torchshrink.converters.rebuild.from_onnx import from_onnx as from_onnx
    from torchshrink.converters.tflite import to_tflite as to_tflite

_FUNCTIONS = {
    "from_onnx": "torchshrink.converters.rebuild.from_onnx",
    "to_onnx": "torchshrink.converters.export.to_onnx",
    "to_tflite": "torchshrink.converters.tflite",
}

__all__ = ["from_onnx", "to_onnx", "to_tflite"]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
