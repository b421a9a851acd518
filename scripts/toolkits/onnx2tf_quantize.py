"""onnx2tf's own int8 conversion (``-oiqt``) of the float ONNX file, calibrated through TensorFlow's converter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from toolkit import Inputs, Made, answer

BACKENDS = {"tf": (), "tf_converter": ("-tb", "tf_converter"), "flatbuffer_direct": ("-tb", "flatbuffer_direct")}


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file."""
    import onnx

    folder = out.with_name(f"{out.name}-files")
    folder.mkdir(parents=True, exist_ok=True)
    samples = folder / "calibration.npy"
    np.save(samples, inputs.calibration.transpose(0, 2, 3, 1))
    name = onnx.load(inputs.onnx).graph.input[0].name
    command = [sys.executable, "-m", "onnx2tf", "-i", inputs.onnx, "-o", folder, "-oiqt", *BACKENDS[variant]]
    command += ["-cind", name, samples, "0", "1", "-n"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, file=sys.stderr)
    found = next(iter(sorted(folder.glob("*_full_integer_quant.tflite"))), None)
    if found is None:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines[-1:]
        raise RuntimeError(f"exit code {done.returncode}: {' '.join(errors[-1:])}")
    shutil.copy(found, out.with_suffix(".tflite"))
    return Made(out.with_suffix(".tflite"))


if __name__ == "__main__":
    answer(make)
