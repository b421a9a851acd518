"""What every toolkit's script is given and how it answers; imports nothing but numpy.

A script is run as ``python SCRIPT VARIANT INPUTS OUT`` by the python of the toolkit's own environment. It writes the
file of one row next to OUT and prints one JSON line: ``{"path", "note"}``, or ``{"error"}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Inputs:
    """The folder with the trained model and its data; arrays are float32 ``[N, C, H, W]``, normalised."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The trained float model's weights."""
        return self.folder / "dense.safetensors"

    @property
    def onnx(self) -> Path:
        """The same as float ONNX."""
        return self.folder / "dense-fp32.onnx"

    @property
    def tflite(self) -> Path:
        """The same as float TFLite; channels last."""
        return self.folder / "dense-fp32.tflite"

    @property
    def calibration(self) -> np.ndarray:
        """The samples to calibrate on."""
        samples: np.ndarray = np.load(self.folder / "calibration.npy")
        return samples

    @property
    def epochs(self) -> tuple[int, int]:
        """For how many epochs a model is pruned, and for how many it is trained for int8."""
        settings = json.loads((self.folder / "settings.json").read_text())
        return settings["prune_epochs"], settings["qat_epochs"]

    @property
    def training(self) -> dict[str, np.ndarray]:
        """``x``, ``y``, ``validation_x``, ``validation_y``."""
        with np.load(self.folder / "training.npz") as arrays:
            return dict(arrays)


@dataclass(frozen=True)
class Made:
    """The file of a row, and what is particular about how it was made."""

    path: Path
    note: str = ""


def answer(make: Callable[[str, Inputs, Path], Made]) -> None:
    """Call ``make(variant, inputs, out)`` with this process's arguments and print the answer as the only line."""
    variant, folder, out = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what toolkits print is no answer
    try:
        made = make(variant, Inputs(Path(folder)), Path(out))
        reply = {"path": str(made.path), "note": made.note}
    except Exception as error:
        reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(f"{variant}: {reply['error']}", file=sys.stderr)
    replies.write(json.dumps(reply) + "\n")
    replies.close()
