"""NNCF's post-training quantization: of OpenVINO's model, and of the float ONNX file for ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["NNCF_CI"] = "1"  # no telemetry

import nncf
from toolkit import Inputs, Made, answer


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file: ``.xml`` with a ``.bin`` beside it, or ``.onnx``."""
    calibration = [sample[None] for sample in inputs.calibration]
    if variant == "onnx":
        import onnx

        model = onnx.load(inputs.onnx)
        name = model.graph.input[0].name
        quantized = nncf.quantize(model, nncf.Dataset(calibration, lambda sample: {name: sample}))
        onnx.save(quantized, out.with_suffix(".onnx"))
        return Made(out.with_suffix(".onnx"))
    import openvino

    model = openvino.Core().read_model(inputs.onnx)
    if variant != "float":
        model = nncf.quantize(model, nncf.Dataset(calibration), subset_size=len(calibration))
    openvino.save_model(model, out.with_suffix(".xml"), compress_to_fp16=False)
    return Made(out.with_suffix(".xml"))


if __name__ == "__main__":
    answer(make)
