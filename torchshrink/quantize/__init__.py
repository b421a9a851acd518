"""Quantization-aware training and post-training quantization with the TFLite 8-bit scheme."""

from torchshrink.quiet import quiet

with quiet():  # torchao talks while it is imported
    from torchshrink.quantize.flow import calibrate, capture, convert, is_quantized, prepare_ptq, prepare_qat
    from torchshrink.quantize.prepared import PreparedModule

__all__ = ["PreparedModule", "calibrate", "capture", "convert", "is_quantized", "prepare_ptq", "prepare_qat"]
