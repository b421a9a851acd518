"""The training of a run's variants, as its checkpoints tell: read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torchshrink import metadata
from torchshrink.errors import ModelError
from torchshrink.files import LARGEST_TEXT


def curves(folder: Path, variant: str) -> list[dict[str, float]]:
    """Return the epochs of a variant's training, each with its losses and metrics.

    Empty for one that was not trained, and where its checkpoint is gone or damaged.
    """
    try:
        history = _described(folder / "models" / f"{variant}.safetensors").get("history") or {}
        return [{str(key): float(figure) for key, figure in epoch.items()} for epoch in history.get("epochs", [])]
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, ModelError):
        return []


def _described(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself: safetensors begin with the length of a header in JSON."""
    if not path.is_file():  # a pipe would have to be waited for
        raise OSError(f"{path} is no file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_TEXT:
            raise ValueError(f"{path} has a header of {length} bytes")
        header = json.loads(file.read(length))
    return metadata.parse(header["__metadata__"]["torchshrink"], str(path))
