"""Descriptions of models that give what they take, as ``model.json`` of a bundle holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def spec(**changes: Any) -> dict[str, Any]:
    """Return a description of a model that gives what it takes, 8-bit gray images of 8 x 8."""
    end = {"name": "x", "shape": [1, 8, 8, 1], "type": "float32", "code": "f", "scale": 0.0, "zero_point": 0}
    return {
        "file": "m.tflite", "sha256": "", "kind": "segmentation", "dims": 2, "channels": 1, "raw": "uint8 / 255",
        "mean": [0.0], "std": [1.0], "prepared": {}, "tiles": True, "tile": [8, 8], "overlap": [2, 2],
        "channels_first": False, "classes": ["cell"], "folders": ["cell"], "input": end,
        "output": {**end, "sides": [8, 8]}, **changes,
    }  # fmt: skip


def write_spec(folder: Path, **changes: Any) -> dict[str, Any]:
    made = spec(**changes)
    (folder / "model.json").write_text(json.dumps(made))
    return made
