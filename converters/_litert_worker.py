"""Convert an exported PyTorch program to TFLite with litert-torch. Run as a script in an environment of its own.

Usage: ``python _litert_worker.py FOLDER``, where ``program.pt2`` and ``inputs.pt`` are; ``model_float32.tflite`` is
written beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(folder: Path) -> None:
    """Write the TFLite file."""
    import litert_torch
    import torch

    torch.set_num_threads(1)
    program = torch.export.load(str(folder / "program.pt2"))
    made = litert_torch.convert(program.module(), torch.load(folder / "inputs.pt", weights_only=True))
    made.export(str(folder / "model_float32.tflite"))


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
