"""Remove whole channels, so that a model is smaller and faster on every runtime."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError, RecipeError
from torchshrink.model.plain import computed, plain_weights
from torchshrink.prune.blocks import Block
from torchshrink.prune.groups import Group, Traced
from torchshrink.prune.importance import scores
from torchshrink.prune.proof import Inputs, problem, removed
from torchshrink.settings import Importance, Scope, check

_logger = logging.getLogger(__name__)

LEAST = 0.1  # share of its channels that a layer keeps whatever the ranking says: no layer dies out
_TRIES = 10  # halvings of the amount when a target is to be met: 0.1 % of the channels


def channels(
    model: nn.Module,
    example_input: Inputs,
    amount: float | None = None,
    *,
    amounts: Mapping[str, float] | None = None,
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
    layers that read it, also through a concatenation) are found by tracing and go together. Attention loses whole
    heads: what makes them in all projections and tables, what reads them, and the attributes that count them. Channels
    stay where they make the model's outputs, meet its inputs, or are split, sliced or reordered in other ways than
    attention and gated layers do. What remains is checked to compute what ``model`` computes when nothing reads the
    channels that went (normalisations across channels left out); layers and attention that the model relies on keep
    theirs, and a warning names them.

    Args:
        model: A float module; pruning masks must have been made permanent (`remove`). It stays as it is. Weights that
            are computed from others (weight_norm, spectral_norm) are plain parameters in what is returned: other
            channels have other norms. A warning names them.
        example_input: ``[N, C, *size]``, or a tuple of inputs; traces the model.
        amount: Share of the channels, and of the heads, to remove, in [0, 1). Give this, ``amounts``, or a target.
        amounts: The same share for each layer, by name (`roots` lists them); the others keep their channels.
        target_macs: Multiply-accumulates of one sample that are to remain at most: a share of the model's own when it
            is less than 1, else a number.
        target_params: The same for parameters.
        importance: What a channel is worth. ``"l1"``, ``"l2"``: the norm of the weights that make it, as
            `torch.nn.utils.prune.ln_structured` (Li et al., arXiv:1608.08710). ``"bn"``: the scale of its BatchNorm
            (Liu et al., arXiv:1708.06519); layers without one are left alone. ``"taylor"``: how much the loss
            changes without it, to first order (Molchanov et al., arXiv:1906.10771).
        scope: ``"global"`` ranks channels across layers (norms relative to their layer's mean) and heads across
            attention, ``"layer"`` removes the same share everywhere.
        round_to: Channels that remain in a layer, those of heads included, are rounded up to a multiple of this, as
            kernels like them, or to all that it has.
        ignore: Layers that keep their output channels: names, types, or patterns of either. Attention one of whose
            layers is named keeps its heads.
        loss: For ``"taylor"``: maps the model to the loss on some data, a scalar.

    Raises:
        RecipeError: When arguments contradict each other, nothing can be removed, or a target cannot be met.
        ModelError: When the model cannot be traced, or relies on the number of channels of all that could lose some.

    Source: dependencies by Torch-Pruning (Fang et al., arXiv:2301.12900).
    """
    _check(amount, amounts, target_macs, target_params, scope, round_to)
    if baked := computed(model):
        model = plain_weights(model)
        names = ", ".join(name or type(model).__name__ for name in baked)
        warnings.warn(f"the weights of {names}, computed from others before, are plain parameters now", stacklevel=2)
    traced = Traced(model, example_input, ignore)
    if not traced.groups:
        raise RecipeError(f"{type(model).__name__} has no channels that can be removed{_because(traced.stays)}")
    shares = None if amounts is None else _by_group(traced, amounts)
    ranks = scores(traced.model, traced.groups, importance, loss)
    fixed: dict[int, str] = {}  # groups that have to keep their channels, and why

    def without(share: float | Sequence[float]) -> nn.Module:
        known = [None if index in fixed else rank for index, rank in enumerate(ranks)]
        chosen = _choose(known, traced.groups, share, scope, round_to)
        if share == amount and not any(chosen) and any(_choose(known, traced.groups, share, scope, 1)):
            _logger.warning(
                "round_to=%d is too coarse: every layer keeps all of its channels when %.0f %% go; "
                "choose a smaller round_to, or remove more",
                round_to,
                100 * share,
            )
        if found := _relied_on(model, traced, chosen, example_input):
            fixed.update(found)
            return without(share)
        return removed(model, traced.cuts(chosen))

    if shares is not None:
        slim = without(shares)
    elif amount is not None:
        slim = without(amount)
    else:
        count, target = _target(model, example_input, target_macs, target_params)
        slim = _meet(without, count, target, round_to)
    if fixed:
        names = ", ".join(traced.root(traced.groups[index]) for index in sorted(fixed))
        reason = next(iter(fixed.values()))
        warnings.warn(f"the channels of {names} stay: without some {type(model).__name__} {reason}", stacklevel=2)
    if traced.stays:
        names, reason = ", ".join(traced.stays), next(iter(traced.stays.values()))
        warnings.warn(f"the heads of {names} stay: without some {type(model).__name__} {reason}", stacklevel=2)
    return slim


def roots(model: nn.Module, example_input: Inputs, ignore: Sequence[str] = ()) -> list[str]:
    """Return the layers whose channels can be removed, one for each group of layers that lose theirs together.

    Attention that can lose heads is among them, by the name of the module that counts them. Args and Raises are those
    of `channels`.
    """
    traced = Traced(plain_weights(model), example_input, ignore)
    found = {traced.root(group) for group in traced.groups}
    return [name for name, _ in model.named_modules() if name in found]


def _because(stays: Mapping[str, str]) -> str:
    """Return why the heads of attention stay, as the end of a sentence."""
    return "".join(f"; without heads of {name} it {reason}" for name, reason in list(stays.items())[:1])


def _by_group(traced: Traced, amounts: Mapping[str, float]) -> list[float]:
    """Return the share of every group, 0 where ``amounts`` does not name it."""
    names = [traced.root(group) for group in traced.groups]
    if unknown := sorted(set(amounts) - set(names)):
        known = ", ".join(sorted(names))
        raise RecipeError(f"amounts: {unknown[0]!r} has no channels of its own to remove; {known} have")
    return [amounts.get(name, 0.0) for name in names]


def _check(
    amount: float | None,
    amounts: Mapping[str, float] | None,
    target_macs: float | None,
    target_params: float | None,
    scope: Scope,
    round_to: int,
) -> None:
    given = [value for value in (amount, amounts, target_macs, target_params) if value is not None]
    if len(given) != 1:
        raise RecipeError("channels: give exactly one of amount, amounts, target_macs and target_params")
    for name, share in {"amount": amount, **(amounts or {})}.items():
        if share is not None and not 0 <= share < 1:
            raise RecipeError(f"{name}={share}: the share of channels to remove must be at least 0 and less than 1")
    for target in (target_macs, target_params):
        if target is not None and not target >= 0:
            raise RecipeError(f"a target of {target} cannot be met")
    check("scope", scope, Scope)
    if round_to < 1:
        raise RecipeError(f"round_to={round_to}: expected a positive number of channels")


def _choose(
    ranks: Sequence[Tensor | None],
    groups: Sequence[Group | Block],
    share: float | Sequence[float],
    scope: Scope,
    round_to: int,
) -> list[list[int]]:
    """Return which channels or heads of each group go; ``share`` is of all channels and all heads, or one per group."""
    units = [
        None if rank is None else rank.reshape(group.folds, -1).mean(0)
        for rank, group in zip(ranks, groups, strict=True)
    ]
    shares = [share] * len(units) if isinstance(share, float | int) else share
    wanted = [0 if unit is None else round(part * len(unit)) for unit, part in zip(units, shares, strict=True)]
    if isinstance(share, float | int) and scope == "global":
        heads = {index for index, group in enumerate(groups) if group.is_attention}
        for among in (heads, set(range(len(groups))) - heads):  # a head is no match for a channel: it has more weights
            wanted = _least(units, share, among, wanted)
    chosen: list[list[int]] = []
    for unit, group, number in zip(units, groups, wanted, strict=True):
        if unit is None:
            chosen.append([])
            continue
        size, channels = len(unit), group.folds * group.width
        kept = max(size - number, math.ceil(LEAST * size), 1)
        step = math.lcm(round_to, channels) // channels
        kept = min(size, math.ceil(kept / step) * step)
        indices = unit.argsort(stable=True)[: size - kept]
        chosen.append(sorted(int(index) + part * size for index in indices for part in range(group.folds)))
    return chosen


def _least(units: Sequence[Tensor | None], share: float, among: set[int], wanted: Sequence[int]) -> list[int]:
    """Return ``wanted`` with how many of the least important units, of all of some groups, each of these has."""
    known = {index: unit for index, unit in enumerate(units) if unit is not None and index in among}
    if not known:
        return list(wanted)
    count = math.ceil(round(share * sum(len(unit) for unit in known.values()), 6))
    smallest = torch.cat(list(known.values())).argsort(stable=True)[:count]
    owner = torch.cat([torch.full((len(unit),), index) for index, unit in known.items()])[smallest]
    return [int((owner == index).sum()) if index in known else number for index, number in enumerate(wanted)]


def _target(
    model: nn.Module, example_input: Inputs, macs: float | None, params: float | None
) -> tuple[Callable[[nn.Module], int], float]:
    """Return what is counted, and how much of it may remain."""
    from torchshrink.model.macs import count_macs

    def parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    def multiplications(module: nn.Module) -> int:
        return count_macs(module, example_input)

    count, target = (parameters, params) if macs is None else (multiplications, macs)
    assert target is not None
    return count, target * count(model) if target < 1 else target


def _meet(
    without: Callable[[float], nn.Module], count: Callable[[nn.Module], int], target: float, round_to: int
) -> nn.Module:
    """Return the largest model that meets the target, by halving the range of the amount."""
    low, high = 0.0, 0.999
    whole, best = without(low), without(high)
    if count(whole) <= target:
        return whole
    if count(best) > target:
        coarse = f", of which round_to={round_to} keeps more than must be: choose a smaller one" if round_to > 1 else ""
        raise RecipeError(
            f"a target of {target:.4g} cannot be met: {count(best):.4g} remain with the fewest channels{coarse}"
        )
    for _ in range(_TRIES):
        middle = (low + high) / 2
        candidate = without(middle)
        if count(candidate) > target:
            low = middle
        else:
            high, best = middle, candidate
    return best


def _relied_on(model: nn.Module, traced: Traced, chosen: list[list[int]], example_input: Inputs) -> dict[int, str]:
    """Return the groups whose channels have to stay, since the model computes something else without, and why.

    Raises:
        ModelError: When that helps nothing, or leaves nothing.
    """
    wrong = problem(model, traced.cuts(chosen), example_input)
    if wrong is None:
        return {}
    found: dict[int, str] = {}
    for position, indices in enumerate(chosen):
        alone = [indices if index == position else [] for index in range(len(chosen))]
        if indices and (reason := problem(model, traced.cuts(alone), example_input)) is not None:
            found[position] = reason
    others = [[] if index in found else indices for index, indices in enumerate(chosen)]
    if found and any(others) and problem(model, traced.cuts(others), example_input) is None:
        return found
    names = ", ".join(traced.root(traced.groups[index]) for index in found) or "some layers"
    raise ModelError(
        f"{type(model).__name__} {wrong}: it relies on the number of channels of {names}, which ignore must name"
    )
