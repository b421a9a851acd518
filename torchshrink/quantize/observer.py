"""The observers: of activations in quantization-aware training, and of weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchao.quantization.pt2e import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
)

from torchshrink.model.memory_format import in_memory
from torchshrink.parallel.whole_batch import extremes

_TELLING = 10.0


class StepMinMaxObserver(MovingAverageMinMaxObserver):  # type: ignore[misc]  # torchao ships no types
    """Moving average, over training steps, of the least and greatest value that a step shows.

    Tensors that share parameters (the parts of a concatenation and its result) share one observer. Averaging over
    *calls*, as the base class does, would then average the ranges of the parts, and clip the widest of them; this one
    takes all calls of a step together and averages when `commit` ends it. A step is a whole batch, of which several
    processes may each see a share.
    """

    min_val: Tensor
    max_val: Tensor
    step_min: Tensor
    step_max: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("step_min", torch.tensor(float("inf")), persistent=False)
        self.register_buffer("step_max", torch.tensor(float("-inf")), persistent=False)
        self._is_first_step, self._has_seen = True, False

    def forward(self, x_orig: Tensor) -> Tensor:
        """Include the values of ``x_orig`` in this step's range; in the first step that range is used at once."""
        if x_orig.numel() == 0:
            return x_orig
        low, high = extremes(*torch.aminmax(in_memory(x_orig.detach()).to(self.min_val.dtype)))
        self.step_min, self.step_max = torch.minimum(self.step_min, low), torch.maximum(self.step_max, high)
        self._has_seen = True
        if self._is_first_step:
            self.min_val, self.max_val = self.step_min.clone(), self.step_max.clone()
        return x_orig

    def commit(self) -> None:
        """End a step: move the range towards what the step showed, and begin the next."""
        if self._has_seen:
            is_range = self.step_min <= self.step_max  # False of NaN, which is asked of no accelerator
            low = self.min_val + self.averaging_constant * (self.step_min - self.min_val)
            high = self.max_val + self.averaging_constant * (self.step_max - self.max_val)
            self.min_val = torch.where(is_range, low, self.min_val)
            self.max_val = torch.where(is_range, high, self.max_val)
            self._is_first_step = self._has_seen = False
        self.step_min = torch.full_like(self.step_min, float("inf"))
        self.step_max = torch.full_like(self.step_max, float("-inf"))


class ScoreObserver(HistogramObserver):  # type: ignore[misc]  # torchao ships no types
    """What a softmax over the last dimension tells apart of its input: no more than `_TELLING` below a row's largest.

    Less gives a weight of less than exp(-10), where the smallest int8 one is 1/256. An attention mask of -100 would
    otherwise leave a hundredth of the codes to the scores.
    """

    def forward(self, x_orig: Tensor) -> Tensor:
        """Include the values of ``x_orig``, ``[..., keys]``, those that are too low as the lowest that tell."""
        if x_orig.numel():
            super().forward(torch.maximum(x_orig, x_orig.amax(-1, keepdim=True) - _TELLING))
        return x_orig


class WeightObserver(PerChannelMinMaxObserver):  # type: ignore[misc]  # torchao ships no types
    """What the weights of this very step need, not an average of old ones.

    Args:
        pairs: Leave room for the sum of two neighbours; see `largest`.
        kwargs: As torchao's observer takes them.
    """

    min_val: Tensor
    max_val: Tensor

    def __init__(self, *, pairs: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pairs = pairs

    def forward(self, x_orig: Tensor) -> Tensor:
        """Take the range of ``x_orig``, a weight, per output channel."""
        bound = largest(x_orig.detach().to(self.min_val.dtype), self.ch_axis, self.pairs)
        self.min_val, self.max_val = -bound, bound
        return x_orig


def largest(weight: Tensor, axis: int, pairs: bool) -> Tensor:
    """Return the magnitude that the largest code stands for, ``[channels]``: that of the largest weight.

    With ``pairs`` also that of the largest sum of two neighbours. ONNX Runtime's kernels for x86 without VNNI multiply
    unsigned activations by signed weights two at a time and add the two products in 16 bits: 255 * (127 + 127)
    saturates there, silently. Where no such sum is larger than the largest code, rounding brings it to 128 at most,
    and 255 * 128 fits. Neighbours are two of the order in which those kernels read a weight: all input channels of
    one position of the kernel after the other.

    Every channel with one such pair pays for it: the weights of a small U-Net trained on the synthetic cells, of whose
    pairs 12 % exceed, have 42.4 dB of signal to noise with the room and 45.9 dB without. To shrink just those pairs is
    far worse, 18.7 dB: it moves a weight by tens of steps, where a larger scale moves each by a share of one. The best
    mixture of both, searched for each channel, has 42.6 dB; other neighbours, by another order of the channels, 43.1.

    Args:
        weight: ``[O, I, *kernel]``, or with ``axis`` 1, transposed, ``[I, O, *kernel]``.
        axis: That of the output channels.
        pairs: Whether sums count.

    Source: the instruction VPMADDUBSW, and ONNX Runtime's documentation, "When and why do I need to try U8U8?".
    """
    values = weight.movedim((axis, 1 - axis), (0, -1))
    if axis == 0:
        values = values.flatten(1)
    bound = values.abs().flatten(1).amax(1)
    if pairs:
        even = F.pad(values, (0, values.shape[-1] % 2))
        bound = torch.maximum(bound, (even[..., 0::2] + even[..., 1::2]).abs().flatten(1).amax(1))
    return bound


def fixed(like: HistogramObserver, low: float, high: float) -> MinMaxObserver:
    """Return an observer of the same grid that has seen these two numbers."""
    observer = MinMaxObserver(
        dtype=like.dtype, qscheme=like.qscheme, quant_min=like.quant_min, quant_max=like.quant_max, eps=float(like.eps)
    )
    observer(torch.tensor([low, high]))
    return observer
