"""Measure a model file the way production feels it: bytes, memory of a fresh process, latency, operations.

Everything is loaded on first use, so that ``import torchshrink.bench`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchshrink.lazy import lazy

if TYPE_CHECKING:
    from torchshrink.bench.measurement import Latency, Measurement, measure, measure_all
    from torchshrink.bench.sizes import entropy_bytes, gzip_bytes, size_bytes, zstd_bytes
    from torchshrink.model.macs import count_macs, count_parameters
    from torchshrink.runtime.predict import predict, predict_all

__all__ = ["Latency", "Measurement", "count_macs", "count_parameters", "entropy_bytes", "gzip_bytes", "measure",
           "measure_all", "predict", "predict_all", "size_bytes", "zstd_bytes"]  # fmt: skip

__getattr__, __dir__ = lazy(
    __name__,
    {
        "torchshrink.bench.measurement": "Latency Measurement measure measure_all",
        "torchshrink.bench.sizes": "entropy_bytes gzip_bytes size_bytes zstd_bytes",
        "torchshrink.model.macs": "count_macs count_parameters",
        "torchshrink.runtime.predict": "predict predict_all",
    },
)
