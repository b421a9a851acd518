"""Fake quantization in few passes over memory: what a step of quantization-aware training spends its time on.

torch's own kernel rounds one value at a time and keeps a mask of booleans, whose product with the gradient converts
them; on a processor that costs as much as the convolutions of a small network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchao.quantization.pt2e import FakeQuantize

from torchshrink.quantize.observer import StepMinMaxObserver, WeightObserver

_LARGE = 1e38  # what is smaller can be subtracted and divided


class _OnGrid(torch.autograd.Function):
    """``clamp(round(x / scale), low, high) * scale``, the bits of torch's kernel; the gradient passes in between.

    Source: Bengio et al., arXiv:1308.3432, the straight-through estimator.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | float, inverse: Tensor | float, low: int, high: int) -> Tensor:
        codes = x.mul(inverse).round_()
        ctx.save_for_backward(codes)
        ctx.bounds = (low - 0.5, high + 0.5)
        return codes.clamp(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (codes,) = ctx.saved_tensors
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], codes, *ctx.bounds)
        return passed, None, None, None, None


class _Divided(torch.autograd.Function):
    """``x / factor``, one factor for each channel; its gradient looks at the result, not twice at the quotient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        result = x / factor
        ctx.save_for_backward(result, factor)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        result, factor = ctx.saved_tensors
        passed = gradients[0] / factor
        if not ctx.needs_input_grad[1]:
            return passed, None
        return passed, (passed * result).sum_to_size(factor.shape).neg_()


def divided(x: Tensor, factor: Tensor) -> Tensor:
    """Return ``x / factor``, factors shaped to broadcast over ``x``."""
    quotient: Tensor = _Divided.apply(x, factor)  # type: ignore[no-untyped-call]
    return quotient


class FakeInt8(FakeQuantize):  # type: ignore[misc]  # torchao ships no types
    """torchao's fake quantizer, which computes the same and takes less time on a processor."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as its codes stand for it."""
        observer = self.activation_post_process
        is_known = isinstance(observer, (StepMinMaxObserver, WeightObserver))
        if not is_known or x.device.type != "cpu" or x.dtype != torch.float32:
            found: Tensor = super().forward(x)
            return found
        if self.observer_enabled[0] == 1:
            observer(x.detach())
            if isinstance(observer, WeightObserver) or observer._is_first_step:
                self._take(*self.calculate_qparams())  # of an activation, later, the end of a step does
        if self.fake_quant_enabled[0] != 1:
            return x
        inverse = self.scale.reciprocal()
        if self.is_per_channel:  # symmetric: the zero points are all 0
            shape = [-1 if axis == self.ch_axis else 1 for axis in range(x.dim())]
            return _on_grid(x, self.scale.view(shape), inverse.view(shape), observer.quant_min, observer.quant_max)
        zero = int(self.zero_point)
        return _on_grid(x, float(self.scale), float(inverse), observer.quant_min - zero, observer.quant_max - zero)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of the range that was seen, by a few operations where torchao needs forty."""
        observer = self.activation_post_process
        low, high = observer.min_val, observer.max_val
        if low.device.type == "cpu" and low.dtype == torch.float32:
            is_affine = isinstance(observer, StepMinMaxObserver) and observer.qscheme == torch.per_tensor_affine
            if is_affine and -_LARGE < float(low) <= float(high) < _LARGE:
                return _affine(np.float32(float(low)), np.float32(float(high)), observer)
            if isinstance(observer, WeightObserver) and high.numel() and not bool(high.isnan().any()):
                scale = torch.maximum(high / ((observer.quant_max - observer.quant_min) / 2), observer.eps)
                return scale, torch.zeros(scale.shape, dtype=torch.int32)
        found: tuple[Tensor, Tensor] = super().calculate_qparams()  # which refuses what is no range
        return found

    def _take(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale.resize_(scale.shape).copy_(scale)
        self.zero_point.resize_(zero_point.shape).copy_(zero_point)


def _on_grid(x: Tensor, scale: Tensor | float, inverse: Tensor | float, low: int, high: int) -> Tensor:
    result: Tensor = _OnGrid.apply(x, scale, inverse, low, high)  # type: ignore[no-untyped-call]
    return result


def _affine(low: np.float32, high: np.float32, observer: Any) -> tuple[Tensor, Tensor]:
    """Return the parameters of a range that includes zero, each number rounded as a tensor's would be."""
    low, high = min(low, np.float32(0)), max(high, np.float32(0))
    scale = max((high - low) / np.float32(observer.quant_max - observer.quant_min), np.float32(float(observer.eps)))
    zero = observer.quant_min - int(np.round(low / scale))
    zero = min(max(zero, observer.quant_min), observer.quant_max)
    return torch.tensor([float(scale)]), torch.tensor([zero], dtype=torch.int32)
