"""Measure a model file the way production feels it: bytes, memory of a fresh process, latency, operations.

Everything is loaded on first use, so that ``import torchshrink.bench`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchshrink.bench.measurement import Latency, Measurement, measure, measure_all
    from torchshrink.bench.sizes import entropy_bytes, gzip_bytes, size_bytes, zstd_bytes
    from torchshrink.model.macs import count_macs, count_parameters
    from torchshrink.runtime.predict import predict, predict_all

_MODULES = {
    "count_macs": "torchshrink.model.macs",
    "count_parameters": "torchshrink.model.macs",
    "Latency": "torchshrink.bench.measurement",
    "Measurement": "torchshrink.bench.measurement",
    "measure": "torchshrink.bench.measurement",
    "measure_all": "torchshrink.bench.measurement",
    "predict": "torchshrink.runtime.predict",
    "predict_all": "torchshrink.runtime.predict",
    "entropy_bytes": "torchshrink.bench.sizes",
    "gzip_bytes": "torchshrink.bench.sizes",
    "size_bytes": "torchshrink.bench.sizes",
    "zstd_bytes": "torchshrink.bench.sizes",
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
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
