"""onnxsim: a QDQ graph with calibrated ranges; plain, and equalized before with its bias corrected after."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnx
import onnxsim
from toolkit import Inputs, Made, answer


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file. Its AdaRound and AdaQuant change matrix products alone, of which a U-Net has none."""
    path = out.with_suffix(".onnx")
    model, failed = onnxsim.simplify(onnx.load(inputs.onnx))
    del failed
    name = model.graph.input[0].name
    batches = [{name: sample[None]} for sample in inputs.calibration]
    if variant == "equalized":
        model = onnxsim.cross_layer_equalize(model)
    made = onnxsim.quantize_static(model, batches, full_graph=True)
    if variant == "equalized":
        made = onnxsim.correct_bias(model, made, batches)
    onnx.save(made, path)
    return Made(path)


if __name__ == "__main__":
    answer(make)
