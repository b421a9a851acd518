"""Make a trained PyTorch model smaller, faster and less memory-hungry, and prove it.

Everything below is loaded on first use, so that ``import torchshrink`` costs nothing and a benchmark's process holds
only the runtime that it measures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

_ATTRIBUTES = {"UNet": "torchshrink.model.unet", "Task": "torchshrink.task", "open_task": "torchshrink.data",
               "run": "torchshrink.converters.calls", "shrink": "torchshrink.converters.calls"}  # fmt: skip
_MODULES = (
    "bench", "checkpoint", "converters", "data", "errors", "loops", "losses", "metrics", "prune", "quantize",
    "sensitivity", "stages", "training",
)  # fmt: skip

__all__ = [*_ATTRIBUTES, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _ATTRIBUTES:
        return getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("torchshrink")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
