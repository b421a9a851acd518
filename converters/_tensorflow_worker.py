"""Convert float ONNX files to TFLite with onnx2tf. Run as a script in a process of its own, never imported.

TensorFlow takes seconds and hundreds of megabytes to load, onnx2tf prints pages, exits the interpreter on errors and
may rewrite its input: none of that may happen in the user's process.

Usage: ``python _tensorflow_worker.py JOBS.json`` with ``[{"onnx": FILE, "folder": FOLDER, "keras": BOOL}, ...]``.
Every folder receives ``model_float32.tflite`` and a SavedModel; with ``keras`` also ``model_float32.h5``.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def convert(onnx: str, folder: str, keras: bool) -> None:
    """Run onnx2tf on one file."""
    import onnx2tf

    settings: dict[str, Any] = {
        "input_onnx_file_path": onnx,
        "output_folder_path": folder,
        "copy_onnx_input_output_names_to_tflite": True,
        "not_use_onnxsim": True,
        "non_verbose": True,
        "output_h5": keras,
    }
    if "tflite_backend" in inspect.signature(onnx2tf.convert).parameters:
        # onnx2tf 2.x: its default backend was seen writing files that do not load.
        settings["tflite_backend"] = "tf_converter"
    onnx2tf.convert(**settings)


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        convert(**job)
