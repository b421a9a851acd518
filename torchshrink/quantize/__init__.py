"""Quantization-aware training and post-training quantization with the TFLite 8-bit scheme."""

from torchshrink.quiet import quiet

with quiet():  # torchao talks while it is imported
    from torchshrink.quantize.flow import calibrate, convert, is_quantized, prepare_ptq, prepare_qat
    from torchshrink.quantize.ladder.climb import ptq
    from torchshrink.quantize.noise import Noise, noise
    from torchshrink.quantize.prepared import PreparedModule
    from torchshrink.quantize.tracing import capture

__all__ = [
    "Noise",
    "PreparedModule",
    "calibrate",
    "capture",
    "convert",
    "is_quantized",
    "noise",
    "prepare_ptq",
    "prepare_qat",
    "ptq",
]
