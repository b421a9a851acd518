"""The data that a checkpoint was made with, as it says itself: what a command takes where nobody says other data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchshrink import checkpoint
from torchshrink.data.sources import is_callable
from torchshrink.errors import ModelError
from torchshrink.weights import is_foreign


def stated(data: str, seed: int) -> dict[str, Any]:
    """Return what a checkpoint says of the data that it was made with; the seed chose its test samples."""
    return {"data": {"source": data, "seed": seed}}


def data_of(path: Path) -> tuple[str, int]:
    """Return the data that a checkpoint names, and the seed that it was opened with.

    Raises:
        ModelError: When it names none, or code, which no checkpoint may run.
    """
    known = {} if is_foreign(path) else checkpoint.describe(path).get("data")
    source, seed = (known.get("source"), known.get("seed")) if isinstance(known, dict) else (None, None)
    if not isinstance(source, str) or not isinstance(seed, int):
        raise ModelError(f"{path} does not say what data it was made with: pass --data, such as --data path/to/folder")
    if is_callable(source):
        raise ModelError(f"{path} was made with {source}, which is code: pass --data {source} if you trust it")
    return source, seed
