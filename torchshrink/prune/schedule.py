"""When to prune how much while training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from torchshrink.errors import RecipeError
from torchshrink.prune.layers import prunable_layers
from torchshrink.prune.weights import magnitude

Method = Callable[[nn.Module, float], object]


@dataclass
class Schedule:
    """Prune while training: call `step` once per optimizer step.

    Attributes:
        initial: Sparsity at ``begin``.
        final: Sparsity from ``end`` on.
        begin: First step that prunes.
        end: Step that reaches ``final``.
        power: 3 prunes fast while much is redundant and slowly towards the end; 1 is linear.
        every: Steps between two prunings.
        method: Prunes a model, in place, to a sparsity; `functools.partial` sets what else it takes.
        rewind_to: Step whose weights the remaining ones go back to at ``end``, or the first step after it that is
            seen; ``None`` leaves them as they are.

    Raises:
        RecipeError: When the numbers contradict each other.

    Source: Zhu and Gupta, arXiv:1710.01878, equation 1; rewinding: Frankle et al., arXiv:1903.01611.
    """

    initial: float
    final: float
    begin: int
    end: int
    power: float = 3.0
    every: int = 10
    method: Method = magnitude
    rewind_to: int | None = None
    _remembered: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.initial <= self.final < 1 or not 0 <= self.begin <= self.end or self.every < 1:
            raise RecipeError(
                f"schedule from {self.initial} to {self.final} in steps {self.begin}..{self.end}, every {self.every}: "
                "expected 0 <= initial <= final < 1, 0 <= begin <= end and every >= 1"
            )
        if self.rewind_to is not None and not 0 <= self.rewind_to < self.end:
            raise RecipeError(f"rewind_to={self.rewind_to}: expected a step before {self.end}, the one that prunes")

    @classmethod
    def polynomial(
        cls, initial: float, final: float, begin: int, end: int, power: float = 3.0, method: Method = magnitude
    ) -> Schedule:
        """Return the schedule ``final + (initial - final) * (1 - progress) ** power``, pruned about 50 times."""
        return cls(initial, final, begin, end, power, max(1, (end - begin) // 50), method)

    @classmethod
    def constant(cls, amount: float, begin: int, end: int, method: Method = magnitude) -> Schedule:
        """Return the schedule that prunes to ``amount`` at ``begin`` and chooses anew, about 50 times, until ``end``.

        Only the first choice sees weights that were never pruned; later ones matter for methods that unmask.
        """
        return cls(amount, amount, begin, end, 1.0, max(1, (end - begin) // 50), method)

    @classmethod
    def one_shot(cls, amount: float, at: int, rewind_to: int | None = None, method: Method = magnitude) -> Schedule:
        """Return the schedule that prunes once, and puts the weights that remain back to those of an earlier step."""
        return cls(amount, amount, at, at, 1.0, 1, method, rewind_to)

    def amount(self, step: int) -> float:
        """Return the sparsity that is due at ``step``."""
        if step >= self.end:
            return self.final
        if step <= self.begin:
            return self.initial
        progress = (step - self.begin) / (self.end - self.begin)
        return self.final + float((self.initial - self.final) * (1 - progress) ** self.power)

    def step(self, model: nn.Module, step: int) -> None:
        """Prune ``model`` to the sparsity due at ``step``, when it is one that prunes."""
        is_late = self.rewind_to is not None and self.rewind_to < step <= self.end and not self._remembered
        if step == self.rewind_to or is_late:
            self._remember(model)
        is_due = self.begin <= step < self.end and (step - self.begin) % self.every == 0
        if is_due or step == self.end:
            self.method(model, self.amount(step))
        if step == self.end and self.rewind_to is not None:
            self._rewind(model)

    def _remember(self, model: nn.Module) -> None:
        self._remembered = {
            name: getattr(layer, "weight_orig", layer.weight).detach().clone()
            for name, layer in prunable_layers(model).items()
        }

    @torch.no_grad()
    def _rewind(self, model: nn.Module) -> None:
        for name, layer in prunable_layers(model).items():
            getattr(layer, "weight_orig", layer.weight).copy_(self._remembered[name])
        self._remembered = {}
