"""The observer of activations in quantization-aware training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e import MovingAverageMinMaxObserver

from torchshrink.memory_format import in_memory
from torchshrink.whole_batch import extremes


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
        self._is_first_step = True

    def forward(self, x_orig: Tensor) -> Tensor:
        """Include the values of ``x_orig`` in this step's range; in the first step that range is used at once."""
        if x_orig.numel() == 0:
            return x_orig
        low, high = extremes(*torch.aminmax(in_memory(x_orig.detach()).to(self.min_val.dtype)))
        self.step_min, self.step_max = torch.minimum(self.step_min, low), torch.maximum(self.step_max, high)
        if self._is_first_step:
            self.min_val, self.max_val = self.step_min.clone(), self.step_max.clone()
        return x_orig

    def commit(self) -> None:
        """End a step: move the range towards what the step showed, and begin the next."""
        if bool(self.step_min <= self.step_max):
            self.min_val = self.min_val + self.averaging_constant * (self.step_min - self.min_val)
            self.max_val = self.max_val + self.averaging_constant * (self.step_max - self.max_val)
            self._is_first_step = False
        self.step_min = torch.full_like(self.step_min, float("inf"))
        self.step_max = torch.full_like(self.step_max, float("-inf"))
