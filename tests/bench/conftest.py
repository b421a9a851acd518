"""Small model files of every kind."""

from model_files import (
    damaged,
    fixed_tflite_file,
    free_onnx_file,
    hungry_onnx_file,
    int8_file,
    onnx_file,
    pt2_file,
    quantized_pt2_file,
    sample,
    tflite_file,
)

__all__ = [
    "damaged",
    "fixed_tflite_file",
    "free_onnx_file",
    "hungry_onnx_file",
    "int8_file",
    "onnx_file",
    "pt2_file",
    "quantized_pt2_file",
    "sample",
    "tflite_file",
]
