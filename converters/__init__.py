"""The bridge from PyTorch to ONNX and TFLite: export, convert, transfer learned ranges, verify."""

import os

# Recent versions of ONNX Runtime write a device identifier when they are imported, unless told not to before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from torchshrink.converters.export.to_onnx import to_onnx
from torchshrink.converters.rebuild.from_onnx import from_onnx
from torchshrink.converters.tflite import to_tflite

__all__ = ["from_onnx", "to_onnx", "to_tflite"]
