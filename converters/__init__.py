"""The bridge from PyTorch to ONNX and TFLite: export, convert, transfer learned ranges, verify."""

from torchshrink.converters.onnx_export import to_onnx
from torchshrink.converters.tflite import to_tflite

__all__ = ["to_onnx", "to_tflite"]
