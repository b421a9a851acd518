"""AIMET: quantization simulated on an ONNX graph and written as QDQ; plain, and with equalization and AdaRound."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import aimet_onnx
import onnx
from aimet_onnx.cross_layer_equalization import equalize_model
from toolkit import Inputs, Made, answer

ITERATIONS = 500  # for each layer, as the row says; the default of 10,000 takes hours on two cores


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file."""
    path = out.with_suffix(".onnx")
    model = onnx.load(inputs.onnx)
    batches = [{model.graph.input[0].name: sample[None]} for sample in inputs.calibration]
    if variant == "rounded":
        equalize_model(model)
    sim = aimet_onnx.QuantizationSimModel(model)
    sim.compute_encodings(batches)
    if variant == "rounded":
        aimet_onnx.apply_adaround(sim, batches, num_iterations=ITERATIONS)
        sim.compute_encodings(batches)
    onnx.save(sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), path)
    return Made(path)


if __name__ == "__main__":
    answer(make)
