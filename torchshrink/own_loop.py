"""What of the training loop may be the user's own: all of it, or its optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from torchshrink.errors import RecipeError, ShrinkError
from torchshrink.settings import Training

AfterStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Loop:
    """What replaces parts of the built-in loop; None leaves a part as it is.

    Attributes:
        fit: ``fit(model, task, settings, after_step)`` trains the model in place, and calls ``after_step(step, steps)``
            after every step of its optimizer, which is what prunes and keeps zeros.
        optimizer: ``optimizer(parameters, lr=..., weight_decay=...)``, as those of `torch.optim`; by default AdamW.
        schedule: ``schedule(optimizer, steps)``, stepped once per step; by default one cycle.
    """

    fit: Callable[[nn.Module, Any, Any, AfterStep], Any] | None = None
    optimizer: Callable[..., torch.optim.Optimizer] | None = None
    schedule: Callable[[torch.optim.Optimizer, int], LRScheduler] | None = None

    def make_optimizer(self, parameters: Iterable[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
        """Return the optimizer of a training."""
        make = self.optimizer or _adamw
        try:
            return make(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        except TypeError as error:
            raise RecipeError(f"optimizer {_name(make)} does not take lr and weight_decay: {error}") from error

    def make_schedule(self, optimizer: torch.optim.Optimizer, settings: Training, steps: int) -> LRScheduler:
        """Return the learning rate's schedule over ``steps``."""
        if self.schedule is None:
            return OneCycleLR(optimizer, settings.lr, total_steps=max(steps, 2))
        try:
            return self.schedule(optimizer, steps)
        except TypeError as error:
            raise RecipeError(f"schedule {_name(self.schedule)} does not take (optimizer, steps): {error}") from error


def _adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return AdamW, which steps each parameter in one operation instead of fifteen where torch has that."""
    given = list(parameters)
    is_fused = all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in given)
    return torch.optim.AdamW(given, lr=lr, weight_decay=weight_decay, fused=is_fused)


BUILT_IN = Loop()


def hand_over(model: nn.Module, task: Any, settings: Any, after_step: AfterStep | None) -> None:
    """Let the user's own ``settings.loop.fit`` train a model in place.

    Raises:
        RecipeError: When it stops with an error, trains another model, or does not say that its steps are done.
    """
    fit, told = settings.loop.fit, [(0, 0)]

    def tell(step: int, steps: int) -> None:
        told.append((step, steps))
        if after_step is not None:
            after_step(step, steps)

    try:
        result = fit(model, task, settings, tell)
    except ShrinkError:
        raise
    except Exception as error:  # whatever the user's code does
        raise RecipeError(f"fit {_name(fit)} stopped with {type(error).__name__}: {error}") from error
    if isinstance(result, nn.Module) and result is not model:
        raise RecipeError(f"fit {_name(fit)} returned another model: train the one that it is given, in place")
    step, steps = told[-1]
    if after_step is not None and (step < steps or steps == 0):
        raise RecipeError(
            f"fit {_name(fit)} ended after telling of step {step} of {steps}: call after_step(step, steps) after every "
            "step of its optimizer, or nothing is pruned and no zero kept"
        )
    model.cpu().eval()


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
