"""Quantize a TFLite file with ai-edge-quantizer: imported where that is installed, else run by a Python that has it.

Usage: ``python _quantizer_worker.py FOLDER``, which holds ``model.tflite``, ``left.json``, ``names.json`` and
``statistics.npz``; writes ``quantized.tflite`` there, or ``refused`` with the reason.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def quantize(content: bytes, left_alone: Sequence[Mapping[str, Any]], statistics: Mapping[str, Any]) -> bytes:
    """Return the file with everything static int8 but what is left alone.

    Args:
        content: A float TFLite file.
        left_alone: Entries of ai-edge-quantizer's recipe for what stays float.
        statistics: By the names of tensors, their least (``min``) and greatest (``max``) values.

    Raises:
        ValueError: When ai-edge-quantizer refuses the file, in its words.
    """
    from ai_edge_quantizer import quantizer, recipe

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how ai-edge-quantizer itself opens an interpreter
            worker = quantizer.Quantizer(content, [*recipe.static_wi8_ai8(), *left_alone])
            return bytes(worker.quantize(dict(statistics)).quantized_model)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(str(error)) from error


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with np.load(folder / "statistics.npz") as arrays:
        names = json.loads((folder / "names.json").read_text())
        ranges = {name: {"min": arrays[f"{i}_min"], "max": arrays[f"{i}_max"]} for i, name in enumerate(names)}
    try:
        quantized = quantize(
            (folder / "model.tflite").read_bytes(), json.loads((folder / "left.json").read_text()), ranges
        )
        (folder / "quantized.tflite").write_bytes(quantized)
    except ValueError as error:
        (folder / "refused").write_text(str(error))
