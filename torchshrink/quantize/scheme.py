"""The TFLite 8-bit scheme as torchao quantization specs.

Activations are affine int8 per tensor in [-128, 127]; weights are symmetric int8 per output channel in [-127, 127]
with zero point 0, or in [-7, 7] where 4 bits are to hold them; a sigmoid, softmax or tanh has fixed parameters.

Source: https://ai.google.dev/edge/litert/models/quantization_spec
"""

from __future__ import annotations

import dataclasses

import torch
from torchao.quantization.pt2e import HistogramObserver
from torchao.quantization.pt2e.quantizer import FixedQParamsQuantizationSpec, QuantizationSpec

from torchshrink.quantize.fake import FakeInt8
from torchshrink.quantize.observer import ScoreObserver, StepMinMaxObserver, WeightObserver
from torchshrink.settings import Weights

ACTIVATION_MIN, ACTIVATION_MAX = -128, 127
WEIGHT_MIN, WEIGHT_MAX = -127, 127
_LARGEST: dict[Weights, int] = {"int8": WEIGHT_MAX, "int4": 7}

# The smallest scales: a tensor or channel that is all zeros must not get a scale so small that the int32 bias, whose
# scale is their product, has no room (`bias.make_room` gives more to those that are large). Activations below 0.004
# lose codes. A constant factor has no bias, and may be smaller: a layer scale begins with 1e-6.
ACTIVATION_EPS, _CONSTANT_EPS, WEIGHT_EPS = 2.0**-16, 2.0**-20, 2.0**-16


def activation_spec(is_qat: bool, is_symmetric: bool = False, is_constant: bool = False) -> QuantizationSpec:
    """Return the spec of an activation: int8, one range per tensor, affine or with the zero point 0."""
    eps = _CONSTANT_EPS if is_constant else ACTIVATION_EPS
    observer = (
        FakeInt8.with_args(observer=StepMinMaxObserver, eps=eps) if is_qat else HistogramObserver.with_args(eps=eps)
    )
    return QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=observer,
        quant_min=ACTIVATION_MIN,
        quant_max=ACTIVATION_MAX,
        qscheme=torch.per_tensor_symmetric if is_symmetric else torch.per_tensor_affine,
    )


def score_spec() -> QuantizationSpec:
    """Return the spec of what only a softmax reads, in calibration: int8, affine, one range for what it tells apart."""
    return dataclasses.replace(
        activation_spec(is_qat=False), observer_or_fake_quant_ctr=ScoreObserver.with_args(eps=ACTIVATION_EPS)
    )


def weight_spec(is_qat: bool, axis: int, pairs: bool = True, weights: Weights = "int8") -> QuantizationSpec:
    """Return the spec of a weight: int8, symmetric, one scale per slice of ``axis``, the output-channel axis.

    With ``pairs`` no two neighbours exceed what processors without VNNI add up: see `observer.largest`.
    """
    # ch_axis is repeated because torchao drops the spec's own where a fake quantizer makes the observer.
    settings = {"eps": WEIGHT_EPS, "ch_axis": axis, "pairs": pairs}
    observer = (
        FakeInt8.with_args(observer=WeightObserver, **settings) if is_qat else WeightObserver.with_args(**settings)
    )
    return QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=observer,
        quant_min=-_LARGEST[weights],
        quant_max=_LARGEST[weights],
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
    )


def fixed_spec(scale: float, zero_point: int) -> FixedQParamsQuantizationSpec:
    """Return the spec of an output whose range is known without looking, such as a sigmoid's."""
    return FixedQParamsQuantizationSpec(
        dtype=torch.int8,
        scale=scale,
        zero_point=zero_point,
        quant_min=ACTIVATION_MIN,
        quant_max=ACTIVATION_MAX,
        qscheme=torch.per_tensor_affine,
    )


SIGMOID = fixed_spec(1 / 256, -128)
SOFTMAX = fixed_spec(1 / 256, -128)
TANH = fixed_spec(1 / 128, 0)
