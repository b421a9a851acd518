"""What an exported ONNX file says about itself, read with `onnx` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx


def get_metadata(path: Path) -> dict[str, Any]:
    """Return the JSON that is stored in a file; empty when there is none."""
    properties = {item.key: item.value for item in onnx.load(str(path)).metadata_props}
    content: dict[str, Any] = json.loads(properties.get("torchshrink", "{}"))
    return content
