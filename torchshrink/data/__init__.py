"""Where samples come from: folders, tables, npz files, datasets, synthetic sets and the caller's own code."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchshrink.data.arrays import from_xy
    from torchshrink.data.augment import flips_rotations_noise
    from torchshrink.data.build import task_from_arrays
    from torchshrink.data.datasets import task_from_datasets
    from torchshrink.data.labelled import LabelledArrays
    from torchshrink.data.sources import open_task
    from torchshrink.data.synthetic import cells, pulses

_MODULES = {  # loaded on first use: the process that predicts prepares images without torch
    "LabelledArrays": "labelled",
    "cells": "synthetic",
    "flips_rotations_noise": "augment",
    "from_xy": "arrays",
    "open_task": "sources",
    "pulses": "synthetic",
    "task_from_arrays": "build",
    "task_from_datasets": "datasets",
}

__all__ = [
    "LabelledArrays",
    "cells",
    "flips_rotations_noise",
    "from_xy",
    "open_task",
    "pulses",
    "task_from_arrays",
    "task_from_datasets",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"torchshrink.data.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
