"""Fake quantization in few passes over memory: what a step of quantization-aware training spends its time on.

torch's own kernel rounds one value at a time and keeps a mask of booleans, whose product with the gradient converts
them; on a processor that costs as much as the convolutions of a small network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e import FakeQuantize

from torchshrink.quantize.observer import StepMinMaxObserver


class _OnGrid(torch.autograd.Function):
    """``clamp(round(x / scale), low, high) * scale``, the bits of torch's kernel; the gradient passes in between.

    Source: Bengio et al., arXiv:1308.3432, the straight-through estimator.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, inverse: float, low: int, high: int) -> Tensor:
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
    """torchao's fake quantizer, which computes the same and takes less time for activations on a processor."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as its codes stand for it."""
        if self.is_per_channel or x.device.type != "cpu" or x.dtype != torch.float32:
            found: Tensor = super().forward(x)
            return found
        observer = self.activation_post_process
        if self.observer_enabled[0] == 1:
            observer(x.detach())
            if not isinstance(observer, StepMinMaxObserver) or observer._is_first_step:
                self._take(*self.calculate_qparams())  # later, the end of a step does
        if self.fake_quant_enabled[0] != 1:
            return x
        zero = int(self.zero_point)
        low, high = observer.quant_min - zero, observer.quant_max - zero
        scale, inverse = float(self.scale), float(self.scale.reciprocal())
        result: Tensor = _OnGrid.apply(x, scale, inverse, low, high)  # type: ignore[no-untyped-call]
        return result

    def _take(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale.resize_(scale.shape).copy_(scale)
        self.zero_point.resize_(zero_point.shape).copy_(zero_point)
