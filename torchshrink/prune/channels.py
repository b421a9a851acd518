"""Remove whole channels, so that a model is smaller and faster on every runtime."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchshrink.errors import ModelError, RecipeError
from torchshrink.prune.groups import Inputs, Traced
from torchshrink.prune.importance import scores
from torchshrink.prune.surgery import Cut, remove_channels, silence_channels
from torchshrink.settings import Importance, Scope, check

_logger = logging.getLogger(__name__)

LEAST = 0.1  # share of its channels that a layer keeps whatever the ranking says: no layer dies out
_MIXING = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
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
    layers that read it, also through a concatenation) are found by tracing and go together. Channels stay where they
    make the model's outputs, meet its inputs, or are split, sliced or reordered. What remains is checked to compute
    what ``model`` computes when nothing reads the channels that went (normalisations across channels left out); layers
    whose number of channels the model relies on keep theirs, and a warning names them.

    Args:
        model: A float module; pruning masks must have been made permanent (`remove`). It stays as it is.
        example_input: ``[N, C, *size]``, or a tuple of inputs; traces the model.
        amount: Share of the channels to remove, in [0, 1). Give this, ``amounts``, or one of the targets.
        amounts: The same share for each layer, by name (`roots` lists them); the others keep their channels.
        target_macs: Multiply-accumulates of one sample that are to remain at most: a share of the model's own when it
            is less than 1, else a number.
        target_params: The same for parameters.
        importance: What a channel is worth. ``"l1"``, ``"l2"``: the norm of the weights that make it, as
            `torch.nn.utils.prune.ln_structured` (Li et al., arXiv:1608.08710). ``"bn"``: the scale of its BatchNorm
            (Liu et al., arXiv:1708.06519); layers without one are left alone. ``"taylor"``: how much the loss
            changes without it, to first order (Molchanov et al., arXiv:1906.10771).
        scope: ``"global"`` ranks channels across layers (norms relative to their layer's mean), ``"layer"`` removes
            the same share everywhere.
        round_to: Channels that remain in a layer are rounded up to a multiple of this, as kernels like them, or to
            all that it has.
        ignore: Layers that keep their output channels: names, types, or patterns of either.
        loss: For ``"taylor"``: maps the model to the loss on some data, a scalar.

    Raises:
        RecipeError: When arguments contradict each other, nothing can be removed, or a target cannot be met.
        ModelError: When the model cannot be traced, or relies on the number of channels of all that could lose some.

    Source: dependencies by Torch-Pruning (Fang et al., arXiv:2301.12900).
    """
    _check(amount, amounts, target_macs, target_params, scope, round_to)
    traced = Traced(model, example_input, ignore)
    if not traced.groups:
        raise RecipeError(f"{type(model).__name__} has no channels that can be removed")
    shares = None if amounts is None else _by_group(traced, amounts)
    ranks = scores(traced.model, traced.groups, importance, loss)
    fixed: dict[int, str] = {}  # groups that have to keep their channels, and why

    folds = [group.folds for group in traced.groups]

    def without(share: float | Sequence[float]) -> nn.Module:
        known = [None if index in fixed else rank for index, rank in enumerate(ranks)]
        chosen = _choose(known, folds, share, scope, round_to)
        if share == amount and not any(chosen) and any(_choose(known, folds, share, scope, 1)):
            _logger.warning(
                "round_to=%d is too coarse: every layer keeps all of its channels when %.0f %% go; "
                "choose a smaller round_to, or remove more",
                round_to,
                100 * share,
            )
        if found := _relied_on(model, traced, chosen, example_input):
            fixed.update(found)
            return without(share)
        return _removed(model, traced.cuts(chosen))

    if shares is not None:
        slim = without(shares)
    elif amount is not None:
        slim = without(amount)
    else:
        count, target = _target(model, example_input, target_macs, target_params)
        slim = _meet(without, count, target, round_to)
    if fixed:
        names = ", ".join(traced.root(traced.groups[index]) for index in sorted(fixed))
        problem = next(iter(fixed.values()))
        warnings.warn(f"the channels of {names} stay: without some {type(model).__name__} {problem}", stacklevel=2)
    return slim


def roots(model: nn.Module, example_input: Inputs, ignore: Sequence[str] = ()) -> list[str]:
    """Return the layers whose channels can be removed, one for each group of layers that lose theirs together.

    Args and Raises as `channels`.
    """
    traced = Traced(model, example_input, ignore)
    found = {traced.root(group) for group in traced.groups}
    return [name for name, _ in model.named_modules() if name in found]


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
    folds: Sequence[int],
    share: float | Sequence[float],
    scope: Scope,
    round_to: int,
) -> list[list[int]]:
    """Return which channels of each group's root go; ``share`` is of all channels, or one for each group."""
    units = [None if rank is None else rank.reshape(fold, -1).mean(0) for rank, fold in zip(ranks, folds, strict=True)]
    shares = [share] * len(units) if isinstance(share, float | int) else share
    wanted = [0 if unit is None else round(part * len(unit)) for unit, part in zip(units, shares, strict=True)]
    known = [unit for unit in units if unit is not None]
    if isinstance(share, float | int) and scope == "global" and known:
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
        step = math.lcm(round_to, fold) // fold
        kept = min(size, math.ceil(kept / step) * step)
        indices = unit.argsort(stable=True)[: size - kept]
        chosen.append(sorted(int(index) + part * size for index in indices for part in range(fold)))
    return chosen


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


def _removed(model: nn.Module, cuts: Mapping[str, Cut]) -> nn.Module:
    slim = copy.deepcopy(model)
    remove_channels(slim, cuts)
    return slim


def _relied_on(model: nn.Module, traced: Traced, chosen: list[list[int]], example_input: Inputs) -> dict[int, str]:
    """Return the groups whose channels have to stay, since the model computes something else without, and why.

    Raises:
        ModelError: When that helps nothing, or leaves nothing.
    """
    problem = _problem(model, traced.cuts(chosen), example_input)
    if problem is None:
        return {}
    found: dict[int, str] = {}
    for position, indices in enumerate(chosen):
        alone = [indices if index == position else [] for index in range(len(chosen))]
        if indices and (reason := _problem(model, traced.cuts(alone), example_input)) is not None:
            found[position] = reason
    others = [[] if index in found else indices for index, indices in enumerate(chosen)]
    if found and any(others) and _problem(model, traced.cuts(others), example_input) is None:
        return found
    names = ", ".join(traced.root(traced.groups[index]) for index in found) or "some layers"
    raise ModelError(
        f"{type(model).__name__} {problem}: it relies on the number of channels of {names}, which ignore must name"
    )


def _problem(model: nn.Module, cuts: Mapping[str, Cut], example_input: Inputs) -> str | None:
    """Return what is wrong with the model that remains: it must compute what the model whose readers are zero does."""
    silent = copy.deepcopy(model)
    silence_channels(silent, cuts)
    expected = _outputs(silent, example_input)
    try:
        found = _outputs(_removed(model, cuts), example_input)
    except Exception as error:  # the user's module sees other widths than it was written for
        return f"does not run without the channels ({type(error).__name__}: {error})"
    shapes = [[tuple(output.shape) for output in outputs] for outputs in (found, expected)]
    if shapes[0] != shapes[1]:
        return f"would return {shapes[0]} instead of {shapes[1]}"
    if not all(_is_close(one, other) for one, other in zip(found, expected, strict=True)):
        return "computes something else when channels are gone than when nothing reads them"
    return None


@torch.no_grad()
def _outputs(model: nn.Module, example_input: Inputs) -> list[Tensor]:
    """Run a throwaway model, with what normalises across channels left out: it would see which of them are gone."""
    for module in model.eval().modules():
        if isinstance(module, _MIXING):
            module.register_forward_hook(lambda _module, inputs, _output: inputs[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = model(*example_input) if isinstance(example_input, tuple) else model(example_input)
    return [output for output in tree_leaves(outputs) if isinstance(output, Tensor)]


def _is_close(found: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding only."""
    if not expected.is_floating_point() or not expected.isfinite().all():
        return True  # indices may jump, overflow says nothing
    tolerance = math.sqrt(torch.finfo(expected.dtype).eps)
    return bool((found - expected).abs().amax() <= tolerance * expected.abs().amax())
