"""Small model files of every kind."""

from model_files import sample, tflite_file

__all__ = ["sample", "tflite_file"]
