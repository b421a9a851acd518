"""Measure a model file the way production feels it: bytes, memory of a fresh process, latency, operations.

Everything is loaded on first use, so that ``import torchshrink.bench`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchshrink.bench.macs import count_macs, count_parameters
    from torchshrink.bench.measurement import Latency, Measurement, measure, measure_all, predict, predict_all
    from torchshrink.bench.sizes import entropy_bytes, gzip_bytes, size_bytes, zstd_bytes

_MODULES = {
    "count_macs": "macs",
    "count_parameters": "macs",
    "Latency": "measurement",
    "Measurement": "measurement",
    "measure": "measurement",
    "measure_all": "measurement",
    "predict": "measurement",
    "predict_all": "measurement",
    "entropy_bytes": "sizes",
    "gzip_bytes": "sizes",
    "size_bytes": "sizes",
    "zstd_bytes": "sizes",
}

__all__ = [
    "Latency",
    "Measurement",
    "count_macs",
    "count_parameters",
    "entropy_bytes",
    "gzip_bytes",
    "measure",
    "measure_all",
    "predict",
    "predict_all",
    "size_bytes",
    "zstd_bytes",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
