"""What of the training loop may be the user's own: all of it, or its optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from torchshrink.errors import RecipeError
from torchshrink.settings import Training
from torchshrink.usercode import calling, told

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
        make, given = self.optimizer or _adamw, list(parameters)
        try:
            made = make(given, lr=settings.lr, weight_decay=settings.weight_decay)
        except TypeError as error:
            raise RecipeError(f"optimizer {_name(make)} does not take lr and weight_decay: {told(error)}") from error
        if not isinstance(made, torch.optim.Optimizer):
            raise RecipeError(
                f"optimizer {_name(make)} returned a {type(made).__name__}: expected one of torch.optim's"
            )
        held = {id(each) for part in made.param_groups for each in part["params"]}
        if held.isdisjoint(map(id, given)):
            raise RecipeError(
                f"optimizer {_name(make)} holds no parameter of the model: give it those that it is given"
            )
        return made

    def make_schedule(self, optimizer: torch.optim.Optimizer, settings: Training, steps: int) -> LRScheduler:
        """Return the learning rate's schedule over ``steps``."""
        if self.schedule is None:
            return OneCycleLR(optimizer, settings.lr, total_steps=max(steps, 2))
        try:
            made = self.schedule(optimizer, steps)
        except TypeError as error:
            raise RecipeError(
                f"schedule {_name(self.schedule)} does not take (optimizer, steps): {told(error)}"
            ) from error
        if not callable(getattr(made, "step", None)):
            raise RecipeError(f"schedule {_name(self.schedule)} returned a {type(made).__name__}, which has no step()")
        return made


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
    fit, heard, before = settings.loop.fit, [(0, 0)], _forms(model)

    def tell(step: int, steps: int) -> None:
        heard.append((step, steps))
        if after_step is not None:
            after_step(step, steps)

    with calling(f"fit {_name(fit)}"):
        result = fit(model, task, settings, tell)
    if isinstance(result, nn.Module) and result is not model:
        raise RecipeError(f"fit {_name(fit)} returned another model: train the one that it is given, in place")
    if changed := [name for name, form in _forms(model).items() if before.get(name, form) != form]:
        raise RecipeError(f"fit {_name(fit)} changed the shape or type of {changed[0]}: train the model as it is")
    step, steps = heard[-1]
    if after_step is not None and (step < steps or steps == 0):
        raise RecipeError(
            f"fit {_name(fit)} ended after telling of step {step} of {steps}: call after_step(step, steps) after every "
            "step of its optimizer, or nothing is pruned and no zero kept"
        )
    model.cpu().eval()


def augmented(augment: Any, inputs: Tensor, truth: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
    """Return a batch as an augmentation changes it.

    Raises:
        RecipeError: When it stops with an error, or gives something else than inputs of their type and truths.
    """
    what = f"augment {_name(augment)}"
    with calling(what):
        found = augment(inputs, truth, generator)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise RecipeError(f"{what} returned a {type(found).__name__}: expected (inputs, truth)")
    changed, truth = found
    if torch.is_tensor(inputs) and not (torch.is_tensor(changed) and changed.dtype == inputs.dtype):
        kind = changed.dtype if torch.is_tensor(changed) else f"a {type(changed).__name__}"
        raise RecipeError(f"{what} made {kind} of inputs of {inputs.dtype}: let it keep their type")
    return changed, truth


def _forms(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
