"""ai-edge-quantizer on the float TFLite file: its own recipe and its own calibration."""

from __future__ import annotations

from pathlib import Path

from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from toolkit import Inputs, Made, answer


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file."""
    path = out.with_suffix(".tflite")
    if variant == "dynamic":
        tool = quantizer.Quantizer(str(inputs.tflite), recipe.dynamic_wi8_afp32())
        tool.quantize().export_model(str(path), overwrite=True)
        return Made(path)
    signatures = Interpreter(str(inputs.tflite)).get_signature_list()
    signature, (name,) = next((key, entry["inputs"]) for key, entry in signatures.items())
    samples = inputs.calibration.transpose(0, 2, 3, 1)
    tool = quantizer.Quantizer(str(inputs.tflite), recipe.static_wi8_ai8())
    calibrated = tool.calibrate({signature: [{name: sample[None]} for sample in samples]}, num_threads=1)
    tool.quantize(calibrated).export_model(str(path), overwrite=True)
    return Made(path)


if __name__ == "__main__":
    answer(make)
