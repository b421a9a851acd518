"""A model that is pruned and becomes int8 while any loop trains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.errors import ModelError, RecipeError
from torchshrink.model.signature import Inputs
from torchshrink.parallel import group
from torchshrink.prune import Schedule, keep_zeros, remove, sparsity
from torchshrink.prune.methods import method as pruning_method
from torchshrink.quantize import PreparedModule

Optimizers = Iterable[torch.optim.Optimizer]


class Shrinking(nn.Module):
    """Stands where the model stood: it takes and gives what that does, and shrinks as the training goes on.

    First weights are pruned, gradually; then the model is exchanged for its int8 simulation, in the optimizer too; at
    last ranges and BatchNorm statistics are frozen. Zero weights stay zero all the time. ``step`` is called after
    every step of the optimizer, by `torchshrink.loops.lightning.ShrinkCallback`,
    `torchshrink.loops.transformers.ShrinkCallback`, or your own loop; ``finish`` returns what came of it.

    Args:
        model: A float module. It is trained itself until it is exchanged.
        example_input: As for `torchshrink.quantize.prepare_qat`.
        amount: Sparsity to reach, in [0, 1); None prunes nothing, and keeps the zeros that there are.
        method: As `torchshrink.prune.methods.method` names them.
        ignore: Layers not to prune.
        qat: Whether it becomes int8.
        keep_float: As for `torchshrink.quantize.prepare_qat`.
        portable: As there.
        pruned_by: Share of the training after which the sparsity is reached.
        qat_from: Share after which it is the int8 simulation that is trained.
        frozen_from: Share after which ranges and statistics are frozen.

    Raises:
        RecipeError: When the shares are not in their order, or ``amount`` or ``method`` cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Inputs,
        *,
        amount: float | None = None,
        method: str = "magnitude",
        ignore: Sequence[str] | None = None,
        qat: bool = True,
        keep_float: Sequence[str] = (),
        portable: bool = True,
        pruned_by: float = 0.4,
        qat_from: float = 0.5,
        frozen_from: float = 0.8,
    ) -> None:
        super().__init__()
        if not 0 <= pruned_by <= qat_from < frozen_from <= 1:
            raise RecipeError(
                f"pruned_by={pruned_by}, qat_from={qat_from}, frozen_from={frozen_from}: expected shares of the "
                "training in this order"
            )
        if amount is not None and not sparsity(model) <= amount < 1:
            raise RecipeError(f"amount={amount}: expected a sparsity below 1, and not below the model's own")
        self.model = keep_zeros(model)
        self._prune = pruning_method(method, ignore, seed=0)
        self._example, self._keep_float, self._portable = example_input, tuple(keep_float), portable
        self._amount, self._qat = amount, qat
        self._shares = pruned_by, qat_from, frozen_from
        self._schedule: Schedule | None = None
        self._done, self._steps = 0, 0
        self._is_frozen = False
        self._graph_trains: bool | None = None  # the mode that the exchanged model's graph is in

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute what the model does."""
        # Lightning sets the flag of each module after validating, and calls no train(), which rewrites the graph.
        if self.is_int8 and self._graph_trains is not self.training:
            self.model.train(self.training)
            self._graph_trains = self.training
        return self.model(*inputs, **named)

    @property
    def is_int8(self) -> bool:
        """Whether it is the int8 simulation that is trained."""
        return isinstance(self.model, PreparedModule)

    def step(self, step: int, steps: int, *optimizers: torch.optim.Optimizer) -> None:
        """Do what is due after an optimizer's step.

        Args:
            step: Steps done, from 1 on. Calling again with the same one does nothing.
            steps: Steps of the whole training.
            *optimizers: Those of the loop; the weights of the int8 simulation take the places of the model's in them.

        Raises:
            ModelError: When the model cannot be traced, or several processes train it, each of which would have to
                exchange it.
            RecipeError: When no optimizer has its weights.
        """
        if step <= self._done:
            return
        pruned, exchanged, frozen = (max(1, int(share * steps)) for share in self._shares)
        if self._schedule is None and self._amount is not None:
            self._schedule = Schedule.polynomial(sparsity(self.model), self._amount, 0, pruned, method=self._prune)
        if isinstance(self.model, PreparedModule):
            self.model.apply_masks()
        elif self._schedule is not None:
            for each in range(self._done + 1, step + 1):  # several optimizers count their steps together
                self._schedule.step(self.model, each)
        if self._qat and not self.is_int8 and step >= exchanged:
            self._exchange(optimizers)
        if isinstance(self.model, PreparedModule) and not self._is_frozen and step >= frozen:
            self.model.freeze()
            self._is_frozen = True
        self._done, self._steps = step, steps

    def finish(self) -> nn.Module:
        """Return what was trained, on the CPU and in evaluation mode: a quantized graph, or the pruned module.

        Raises:
            ModelError: When the training ended before the sparsity was reached, or before int8 began.
        """
        is_pruned = self._schedule is not None and self._done >= self._schedule.end
        if (self._amount is not None and not is_pruned) or (self._qat and not self._is_frozen):
            raise ModelError(
                f"the training ended after step {self._done} of {self._steps}, before the model had shrunk: train to "
                "the end, and call step after every step of the optimizer"
            )
        self.model.cpu().eval()
        if isinstance(self.model, PreparedModule):
            return quantize.convert(self.model)
        return remove(self.model)

    def _exchange(self, optimizers: Optimizers) -> None:
        """Put the int8 simulation in the model's place, here and in the optimizers."""
        if group.count() > 1:
            raise ModelError("several processes train the model, which cannot be exchanged then: pass qat=False")
        remove(self.model)
        device = next(self.model.parameters()).device
        is_training = self.model.training
        prepared = quantize.prepare_qat(self.model.cpu(), self._example, self._keep_float, self._portable).to(device)
        old = dict(self.model.named_parameters())
        new = {name.removeprefix("graph_module."): value for name, value in prepared.named_parameters()}
        for name in new.keys() & old.keys():
            new[name].requires_grad_(old[name].requires_grad)
        exchange_parameters(optimizers, old, new)
        self.model = prepared.train(is_training)
        self._graph_trains = is_training


def exchange_parameters(
    optimizers: Optimizers, old: Mapping[str, nn.Parameter], new: Mapping[str, nn.Parameter]
) -> None:
    """Let optimizers train other parameters of the same names, with the momentum that they gathered.

    Raises:
        RecipeError: When none of them trains one of the old ones.
    """
    names = {id(value): name for name, value in old.items()}
    found = 0
    for optimizer in optimizers:
        raw = _unwrapped(optimizer)
        for part in raw.param_groups:
            kept: list[Tensor] = []
            for value in part["params"]:
                name = names.get(id(value))
                if name is None:
                    kept.append(value)
                    continue
                found += 1
                state = raw.state.pop(value, None)
                if name in new:
                    kept.append(new[name])
                    if state:
                        raw.state[new[name]] = state
            part["params"] = kept
    if not found:
        raise RecipeError("no optimizer trains the model that becomes int8: pass the loop's optimizers to step")


def advance(root: nn.Module, step: int, steps: float, optimizers: Optimizers) -> None:
    """Call ``step`` of every `Shrinking` in a module.

    Raises:
        RecipeError: When there is none, or nobody knows how long the training is.
    """
    found = [module for module in root.modules() if isinstance(module, Shrinking)]
    if not found:
        raise RecipeError(
            f"{type(root).__name__} has no torchshrink.loops.Shrinking in it: wrap the network, "
            "self.net = Shrinking(net, example_input, amount=0.8)"
        )
    if not 0 < steps < float("inf"):
        raise RecipeError(f"a training of {steps} steps has no middle: give the trainer a number of epochs or steps")
    for module in found:
        module.step(step, int(steps), *optimizers)


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside of those of accelerate and Lightning."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, torch.optim.Optimizer) else optimizer
