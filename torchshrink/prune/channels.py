"""Remove whole channels, so that a model is smaller and faster on every runtime."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError, RecipeError
from torchshrink.prune.importance import Importance, scores
from torchshrink.prune.layers import PRUNABLE, prunable_layers
from torchshrink.prune.weights import Scope

Inputs = Tensor | tuple[Tensor, ...]
LEAST = 0.1  # share of its channels that a layer keeps whatever the ranking says: no layer dies out
_TRIES = 10  # halvings of the amount when a target is to be met: 0.1 % of the channels


def channels(
    model: nn.Module,
    example_input: Inputs,
    amount: float | None = None,
    *,
    target_macs: float | None = None,
    target_params: float | None = None,
    importance: Importance = "l2",
    scope: Scope = "global",
    round_to: int = 1,
    ignore: Sequence[str] = (),
    loss: Callable[[nn.Module], Tensor] | None = None,
) -> nn.Module:
    """Return a copy of ``model`` without its least important channels: a plain, smaller module.

    Channels that must go together (both sides of a residual addition, a convolution with its normalisation and the
    layers that read it, also through a concatenation) are found by tracing and go together. What the model's outputs
    consist of is never touched.

    Args:
        model: A float module; pruning masks must have been made permanent (`remove`).
        example_input: ``[N, C, *size]``, or a tuple of inputs; traces the model.
        amount: Share of the channels to remove, in [0, 1). Give this or one of the targets.
        target_macs: Multiply-accumulates of one sample that are to remain at most: a share of the model's own when it
            is less than 1, else a number.
        target_params: The same for parameters.
        importance: What a channel is worth. ``"l1"``, ``"l2"``: the norm of the weights that make it, as
            `torch.nn.utils.prune.ln_structured` (Li et al., arXiv:1608.08710). ``"bn"``: the scale of its BatchNorm
            (Liu et al., arXiv:1708.06519); layers without one are left alone. ``"taylor"``: how much the loss
            changes without it, to first order (Molchanov et al., arXiv:1906.10771).
        scope: ``"global"`` ranks channels across layers (norms relative to their layer's mean), ``"layer"`` removes
            the same share everywhere.
        round_to: Channels that remain in a layer are rounded up to a multiple of this, as kernels like them.
        ignore: Layers that keep their output channels: names, types, or patterns of either.
        loss: For ``"taylor"``: maps the model to the loss on some data, a scalar.

    Raises:
        RecipeError: When arguments contradict each other, or a target cannot be met.
        ModelError: When the model cannot be traced, or does not run any more without the channels.

    Source: dependencies by Torch-Pruning (Fang et al., arXiv:2301.12900).
    """
    _check(amount, target_macs, target_params, round_to)
    source = _Traced(model, example_input, ignore)
    if not source.groups:
        raise RecipeError(f"{type(model).__name__} has no channels that can be removed")
    ranks = scores(source.model, source.groups, importance, loss)

    def without(share: float) -> nn.Module:
        traced = _Traced(model, example_input, ignore)
        traced.remove(_choose(ranks, [group.folds for group in traced.groups], share, scope, round_to))
        _check_outputs(traced.model, example_input, source.shapes)
        return traced.model

    if amount is not None:
        return without(amount)
    count, target = _target(model, example_input, target_macs, target_params)
    return _meet(without, count, target)


def _check(amount: float | None, target_macs: float | None, target_params: float | None, round_to: int) -> None:
    given = [value for value in (amount, target_macs, target_params) if value is not None]
    if len(given) != 1:
        raise RecipeError("channels: give exactly one of amount, target_macs and target_params")
    if amount is not None and not 0 <= amount < 1:
        raise RecipeError(f"amount={amount}: the share of channels to remove must be at least 0 and less than 1")
    if not given[0] >= 0:
        raise RecipeError(f"a target of {given[0]} cannot be met")
    if round_to < 1:
        raise RecipeError(f"round_to={round_to}: expected a positive number of channels")


@dataclass(frozen=True)
class Group:
    """Channels of several layers that stand and fall together.

    Attributes:
        items: Torch-Pruning's: which channels of which layer belong to which of the root's.
        size: Channels of the root.
        folds: Parts of the root in which the same channels must go (grouped convolutions and normalisations).
    """

    items: Any
    size: int
    folds: int


class _Traced:
    """A copy of a model with its groups of channels."""

    def __init__(self, model: nn.Module, example_input: Inputs, ignore: Sequence[str]) -> None:
        import torch_pruning

        self.model = copy.deepcopy(model).eval()
        kept = set(prunable_layers(self.model)) - set(prunable_layers(self.model, ignore))
        ignored = [module for name, module in self.model.named_modules() if name in kept]
        self.graph = torch_pruning.DependencyGraph()
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                self.shapes = _shapes(self.model, example_input)
                self.graph.build_dependency(self.model, example_input, verbose=False)
                found = list(self.graph.get_all_groups(ignored_layers=ignored, root_module_types=PRUNABLE))
        except ModelError:
            raise
        except Exception as error:  # whatever the model or the tracing of it does
            name = type(model).__name__
            raise ModelError(f"{name} cannot be traced for channel pruning: {type(error).__name__}: {error}") from error
        groups = [self._group(items) for items in found]
        self.groups = [group for group in groups if group is not None]

    def remove(self, chosen: Sequence[Sequence[int]]) -> None:
        """Remove channels of each group's root, and all that hangs on them."""
        for group, indices in zip(self.groups, chosen, strict=True):
            if indices:
                root = group.items[0].dep
                self.graph.get_pruning_group(root.target.module, root.handler, list(indices)).prune()

    def _group(self, items: Any) -> Group | None:
        """Return a group, or nothing when its channels must stay: those of the model's outputs."""
        import torch_pruning

        folds = 1
        for dep, _ in items:
            if dep.target.type == torch_pruning.ops.OPTYPE.OUTPUT:
                return None
            if dep.target.type == torch_pruning.ops.OPTYPE.DEPTHWISE_CONV:
                continue
            pruner = self.graph.get_pruner_of_module(dep.target.module)
            is_out = self.graph.is_out_channel_pruning_fn(dep.handler)
            parts = pruner.get_out_channel_groups if is_out else pruner.get_in_channel_groups
            folds = math.lcm(folds, parts(dep.target.module))
        size = len(items[0].idxs)
        return Group(items, size, folds) if size % folds == 0 else None


def _choose(
    ranks: Sequence[Tensor | None], folds: Sequence[int], share: float, scope: Scope, round_to: int
) -> list[list[int]]:
    """Return which channels of each group's root go."""
    units = [None if rank is None else rank.reshape(fold, -1).mean(0) for rank, fold in zip(ranks, folds, strict=True)]
    wanted = [0 if unit is None else round(share * len(unit)) for unit in units]
    known = [unit for unit in units if unit is not None]
    if scope == "global" and known:
        count = math.ceil(round(share * sum(len(unit) for unit in known), 6))
        smallest = torch.cat(known).argsort(stable=True)[:count]
        owner = torch.cat([torch.full((len(unit),), index) for index, unit in enumerate(units) if unit is not None])
        wanted = [int((owner[smallest] == index).sum()) for index in range(len(units))]
    chosen: list[list[int]] = []
    for unit, fold, number in zip(units, folds, wanted, strict=True):
        if unit is None:
            chosen.append([])
            continue
        size = len(unit)
        kept = max(size - number, math.ceil(LEAST * size), 1)
        kept = min(size, -(-kept * fold // round_to) * round_to // fold)
        indices = unit.argsort(stable=True)[: size - kept]
        chosen.append(sorted(int(index) + part * size for index in indices for part in range(fold)))
    return chosen


def _target(
    model: nn.Module, example_input: Inputs, macs: float | None, params: float | None
) -> tuple[Callable[[nn.Module], int], float]:
    """Return what is counted, and how much of it may remain."""
    from torchshrink.bench.macs import count_macs

    def parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    def multiplications(module: nn.Module) -> int:
        return count_macs(module, example_input)

    count, target = (parameters, params) if macs is None else (multiplications, macs)
    assert target is not None
    return count, target * count(model) if target < 1 else target


def _meet(without: Callable[[float], nn.Module], count: Callable[[nn.Module], int], target: float) -> nn.Module:
    """Return the largest model that meets the target, by halving the range of the amount."""
    low, high = 0.0, 0.999
    best = without(high)
    if count(best) > target:
        raise RecipeError(f"a target of {target:.4g} cannot be met: {count(best):.4g} remain with the fewest channels")
    for _ in range(_TRIES):
        middle = (low + high) / 2
        candidate = without(middle)
        if count(candidate) > target:
            low = middle
        else:
            high, best = middle, candidate
    return best


def _check_outputs(model: nn.Module, example_input: Inputs, expected: list[tuple[int, ...]]) -> None:
    try:
        found = _shapes(model, example_input)
    except Exception as error:  # the user's module sees other widths than it was written for
        raise ModelError(
            f"{type(model).__name__} does not run without the channels ({type(error).__name__}: {error}): "
            "name the layers whose number of channels it relies on in ignore"
        ) from error
    if found != expected:
        raise ModelError(f"{type(model).__name__} would return {found} instead of {expected}")


@torch.no_grad()
def _shapes(model: nn.Module, example_input: Inputs) -> list[tuple[int, ...]]:
    from torch.utils._pytree import tree_leaves

    outputs = model(*example_input) if isinstance(example_input, tuple) else model(example_input)
    return [tuple(output.shape) for output in tree_leaves(outputs) if isinstance(output, Tensor)]
