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
from torchao.quantization.pt2e.fake_quantize import FixedQParamsFakeQuantize

from torchshrink.quantize.observer import StepMinMaxObserver, WeightObserver

_LARGE = 1e38  # what is smaller can be subtracted and divided
_INFINITE = np.float32(np.inf)
_JOINING = ("CatBackward0", "MaxPool2DWithIndicesBackward0")  # what only puts values together or selects them


class _CodesKept(torch.autograd.Function):
    """``clamp(round(x / scale), low, high) * scale``, the bits of torch's kernel; the gradient passes in between.

    Source: Bengio et al., arXiv:1308.3432, the straight-through estimator.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        inverse: Tensor,
        low: Tensor | int,
        high: Tensor | int,
        maker: object,
    ) -> Tensor:
        codes = x.mul(inverse).round_()
        ctx.save_for_backward(codes)
        ctx.maker = maker
        ctx.bounds = low, high
        return codes.clamp(low, high).mul_(scale)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (codes,), (low, high) = ctx.saved_tensors, ctx.bounds
        if isinstance(low, Tensor):
            passed = gradients[0] * ((codes >= low) & (codes <= high))
        else:
            passed = torch.ops.aten.hardtanh_backward(gradients[0], codes, low - 0.5, high + 0.5)
        return passed, None, None, None, None, None


class _OnGrid(torch.autograd.Function):
    """The same of one scale, in one new tensor: instead of the codes it keeps ``x``, which a ReLU keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, inverse: float, low: int, high: int, maker: object) -> Tensor:
        ctx.save_for_backward(x)
        ctx.maker = maker
        ctx.bounds = (_below(_least(low, inverse)), _least(high + 1, inverse))
        return x.mul(inverse).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], x, *ctx.bounds)
        return passed, None, None, None, None, None


def _least(code: int, inverse: float) -> float:
    """Return the least float32 that is rounded to ``code`` or more, ties to even as `torch.round` does."""
    factor = np.float32(inverse)
    found = np.float32(code - 0.5) / factor
    while np.rint(found * factor) >= code:
        found = np.nextafter(found, -_INFINITE)
    while np.rint(found * factor) < code:
        found = np.nextafter(found, _INFINITE)
    return float(found)


def _below(value: float) -> float:
    return float(np.nextafter(np.float32(value), -_INFINITE))


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
    """torchao's fake quantizer, which computes the same, takes less time, and asks an accelerator for no number.

    Attributes:
        is_observing: Whether ranges move: what ``observer_enabled`` says, known without waiting for its device.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_observing = self._is_rounding = True

    def enable_observer(self, enabled: bool = True) -> None:
        """Let ranges move, or stay."""
        super().enable_observer(enabled)
        self.is_observing = bool(enabled)

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Let values be rounded, or pass."""
        super().enable_fake_quant(enabled)
        self._is_rounding = bool(enabled)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.is_observing, self._is_rounding = bool(self.observer_enabled[0]), bool(self.fake_quant_enabled[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as its codes stand for it."""
        observer = self.activation_post_process
        is_known = isinstance(observer, (StepMinMaxObserver, WeightObserver))
        if not is_known or x.dtype != torch.float32:
            found: Tensor = super().forward(x)
            return found
        if self._is_made_of_own(x):
            return x
        if self.is_observing:
            observer(x.detach())
            if isinstance(observer, WeightObserver) or observer._is_first_step:
                self._take(*self.calculate_qparams())  # of an activation, later, the end of a step does
        if not self._is_rounding:
            return x
        inverse = self.scale.reciprocal()
        if self.is_per_channel:  # symmetric: the zero points are all 0
            shape = [-1 if axis == self.ch_axis else 1 for axis in range(x.dim())]
            scales = self.scale.view(shape), inverse.view(shape)
            bounds: tuple[Any, Any] = observer.quant_min, observer.quant_max
        elif _is_waited_for(x):
            scales = self.scale, inverse
            bounds = observer.quant_min - self.zero_point, observer.quant_max - self.zero_point
        else:
            zero = int(self.zero_point)
            low, high = observer.quant_min - zero, observer.quant_max - zero
            result: Tensor = _OnGrid.apply(x, float(self.scale), float(inverse), low, high, self)  # type: ignore[no-untyped-call]
            return result
        kept: Tensor = _CodesKept.apply(x, *scales, *bounds, self)  # type: ignore[no-untyped-call]
        return kept

    def _is_made_of_own(self, x: Tensor) -> bool:
        """Return whether all that ``x`` was put together from came out of this quantizer: it is on the grid then.

        Its ranges have seen those parts. In the first step they still move from one part to the next.
        """
        node = x.grad_fn
        if node is None or node.name() not in _JOINING or getattr(self.activation_post_process, "_is_first_step", True):
            return False
        return all(getattr(source, "maker", None) is self for source, _ in node.next_functions)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of the range that was seen, by a few operations where torchao needs forty."""
        observer = self.activation_post_process
        low, high = observer.min_val, observer.max_val
        is_waited_for = _is_waited_for(low)
        if low.dtype != torch.float32:
            pass
        elif isinstance(observer, StepMinMaxObserver) and is_waited_for:
            return _parameters(low, high, observer)
        elif isinstance(observer, StepMinMaxObserver) and observer.qscheme == torch.per_tensor_affine:
            if -_LARGE < float(low) <= float(high) < _LARGE:
                return _affine(np.float32(float(low)), np.float32(float(high)), observer)
        elif isinstance(observer, WeightObserver) and high.numel() and (is_waited_for or not bool(high.isnan().any())):
            scale = torch.maximum(_divided_by(high, (observer.quant_max - observer.quant_min) / 2), observer.eps)
            return scale, torch.zeros_like(scale, dtype=torch.int32)
        found: tuple[Tensor, Tensor] = super().calculate_qparams()  # which refuses what is no range
        return found

    def _take(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale.resize_(scale.shape).copy_(scale)
        self.zero_point.resize_(zero_point.shape).copy_(zero_point)


class FakeFixed(FixedQParamsFakeQuantize):  # type: ignore[misc]  # torchao ships no types
    """torchao's fake quantizer of parameters that are known without looking, which asks its device for none."""

    def __init__(self, observer: Any) -> None:
        super().__init__(observer)
        zero = int(self.zero_point)
        self._bounds = self.quant_min - zero, self.quant_max - zero
        self._step = float(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as its codes stand for it."""
        result: Tensor = _OnGrid.apply(x, self._step, float(1 / np.float32(self._step)), *self._bounds, self)  # type: ignore[no-untyped-call]
        return result


def _affine(low: np.float32, high: np.float32, observer: Any) -> tuple[Tensor, Tensor]:
    """Return the parameters of a range that includes zero, each number rounded as a tensor's would be."""
    low, high = min(low, np.float32(0)), max(high, np.float32(0))
    scale = max((high - low) / np.float32(observer.quant_max - observer.quant_min), np.float32(float(observer.eps)))
    zero = observer.quant_min - int(np.round(low / scale))
    zero = min(max(zero, observer.quant_min), observer.quant_max)
    return torch.tensor([float(scale)]), torch.tensor([zero], dtype=torch.int32)


def _parameters(low: Tensor, high: Tensor, observer: Any) -> tuple[Tensor, Tensor]:
    """Return those of a range by operations on its own device; what is no number makes none, and then no loss."""
    is_seen, codes = ~(low > high), observer.quant_max - observer.quant_min
    low, high = low.clamp(max=0), high.clamp(min=0)
    if observer.qscheme == torch.per_tensor_symmetric:
        scale = torch.maximum(_divided_by(torch.maximum(-low, high), codes / 2), observer.eps)
        zero = torch.zeros_like(scale)
    else:
        scale = torch.maximum(_divided_by(high - low, codes), observer.eps)
        zero = (observer.quant_min - (low / scale).round()).clamp(observer.quant_min, observer.quant_max)
    return torch.where(is_seen, scale, 1).reshape(1), torch.where(is_seen, zero, 0).reshape(1).to(torch.int32)


def _divided_by(x: Tensor, number: float) -> Tensor:
    """Return ``x / number`` to the last bit everywhere: CUDA multiplies by the reciprocal of what is no tensor."""
    return x / torch.full_like(x, number)


def _is_waited_for(x: Tensor) -> bool:
    """Return whether to ask for a number of ``x`` would stop Python until an accelerator has computed it."""
    return x.device.type != "cpu"
