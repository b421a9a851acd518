"""TinyNeuralNetwork: calibrated int8 (asymmetric, per channel) of the PyTorch model; its checkout is on PYTHONPATH."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tinynn.converter import TFLiteConverter
from tinynn.graph.quantization.quantizer import PostQuantizer
from tinynn.graph.tracer import model_tracer
from toolkit import Inputs, Made, answer

from torchshrink import checkpoint


def make(variant: str, inputs: Inputs, out: Path) -> Made:  # noqa: ARG001  # there is one
    """Make one row's file."""
    path, folder = out.with_suffix(".tflite"), out.with_name(f"{out.name}-files")
    calibration = torch.from_numpy(inputs.calibration)
    with model_tracer():
        model = checkpoint.load(inputs.checkpoint).eval()
        config = {"asymmetric": True, "per_tensor": False}
        tool = PostQuantizer(model, calibration[:1], work_dir=str(folder), config=config)
        prepared = tool.quantize()
    prepared.eval()
    with torch.no_grad():
        for sample in calibration:
            prepared(sample[None])
        quantized = tool.convert(prepared)
        torch.backends.quantized.engine = tool.backend
        TFLiteConverter(quantized, calibration[:1], tflite_path=str(path), quantize_target_type="int8").convert()
    return Made(path)


if __name__ == "__main__":
    answer(make)
