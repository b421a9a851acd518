"""onnxruntime.quantization: a QDQ graph with calibrated ranges, or weights alone with ranges taken while running."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from toolkit import Inputs, Made, answer

# What the documentation of quantize_static recommends for processors with VNNI, and its defaults.
STATIC = {
    "tensor-uint8": {"per_channel": False, "activation_type": QuantType.QUInt8},
    "channel-uint8": {"per_channel": True, "activation_type": QuantType.QUInt8},
    "channel-int8": {"per_channel": True, "activation_type": QuantType.QInt8},
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands out one sample after the other."""

    def __init__(self, name: str, samples: np.ndarray) -> None:
        self._entries = iter([{name: sample[None]} for sample in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample, None after the last."""
        return next(self._entries, None)


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file."""
    prepared, path = out.with_name(f"{out.name}-prepared.onnx"), out.with_suffix(".onnx")
    quant_pre_process(inputs.onnx, prepared)
    if variant == "dynamic":
        quantize_dynamic(prepared, path, weight_type=QuantType.QUInt8)  # no kernel for int8 convolutions
        return Made(path)
    import onnx

    name = onnx.load(inputs.onnx).graph.input[0].name
    settings = STATIC[variant] | {"weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
    quantize_static(prepared, path, Reader(name, inputs.calibration), **settings)
    return Made(path)


if __name__ == "__main__":
    answer(make)
