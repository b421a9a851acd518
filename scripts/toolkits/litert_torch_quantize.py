"""litert-torch (formerly ai-edge-torch): the PyTorch model to TFLite without ONNX, int8 by PT2E quantization."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import litert_torch
import torch
from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from litert_torch.quantize.quant_config import QuantConfig
from toolkit import Inputs, Made, answer
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from torchshrink import checkpoint

MOST_TRIES = 30


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file, its inputs and outputs channels last."""
    path = out.with_suffix(".tflite")
    model = litert_torch.to_channel_last_io(checkpoint.load(inputs.checkpoint).eval(), args=[0], outputs=[0])
    calibration = torch.from_numpy(inputs.calibration).movedim(1, -1).contiguous()
    example = (calibration[:1],)
    if variant == "float":
        litert_torch.convert(model, example).export(str(path))
        return Made(path)
    tool = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
    prepared, note = prepare(model, example, tool)
    for sample in calibration:
        prepared(sample[None])
    quantized = convert_pt2e(prepared, fold_quantize=False)
    litert_torch.convert(quantized, example, quant_config=QuantConfig(pt2e_quantizer=tool)).export(str(path))
    return Made(path, note)


def prepare(model: Any, example: tuple[torch.Tensor], tool: PT2EQuantizer) -> tuple[Any, str]:
    """Return the model with observers, tried again while it fails by chance, and how often it did.

    The quantizer annotates concatenations in the order of a set, and most orders name a range that is not there yet.
    """
    for failures in range(MOST_TRIES):
        try:
            prepared = prepare_pt2e(torch.export.export(model, example).module(), tool)
        except AssertionError as error:
            reason = " ".join(str(error).split()).partition(" not in ")[0]
            continue
        return prepared, f"prepare_pt2e failed {failures} times before ({reason})" if failures else ""
    raise AssertionError(f"prepare_pt2e failed {MOST_TRIES} times: {reason}")


if __name__ == "__main__":
    answer(make)
