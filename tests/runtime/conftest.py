"""Small model files of every kind."""

from model_files import damaged, int8_file, onnx_file, pt2_file, sample, tflite_file

__all__ = ["damaged", "int8_file", "onnx_file", "pt2_file", "sample", "tflite_file"]
