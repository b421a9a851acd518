"""What a channel is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.errors import RecipeError
from torchshrink.model.checked import check_differentiable
from torchshrink.prune.blocks import Block, Place
from torchshrink.prune.groups import Group
from torchshrink.prune.layers import PRUNABLE, by_output
from torchshrink.settings import Importance, check

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def scores(
    model: nn.Module,
    groups: Sequence[Group | Block],
    importance: Importance,
    loss: Callable[[nn.Module], Tensor] | None,
) -> list[Tensor | None]:
    """Return one score per channel of each group's root; ``None`` for a group that this importance cannot judge.

    Raises:
        RecipeError: When the importance is unknown, has no data, or can judge no group.
    """
    check("importance", importance, Importance)
    if importance == "taylor":
        if loss is None:
            raise RecipeError("importance='taylor' needs data: give loss, which maps the model to its loss on some")
        model.zero_grad()
        with torch.enable_grad():
            value = loss(model)
            check_differentiable(value, model)
            value.backward()  # type: ignore[no-untyped-call]
    found = [
        _block_score(group, model, importance) if isinstance(group, Block) else _score(group, importance)
        for group in groups
    ]
    if all(score is None for score in found):
        raise RecipeError(f"importance={importance!r} can judge no channel of {type(model).__name__}")
    return found


def _score(group: Group, importance: Importance) -> Tensor | None:
    total, is_judged = torch.zeros(group.size), False
    for item in group.items:
        dep, indices, roots = item.dep, item.idxs, item.root_idxs
        values = _values(dep.target.module, dep.handler.__name__, importance)
        if values is None:
            continue
        is_judged = True
        total.scatter_add_(0, torch.tensor(roots), values.detach().float().cpu()[torch.tensor(indices)])
    if not is_judged:
        return None
    return _rated(total, importance)


def _block_score(block: Block, model: nn.Module, importance: Importance) -> Tensor | None:
    """Return what heads, or channels that several rows make together, are worth.

    For norms it is the weights that make them, as for any channel. For the loss it is the weights that read them
    (Michel et al., arXiv:1905.10650), since the queries and keys of a head change what it looks at, not whether it is.
    """
    if importance == "bn":
        return None
    if importance == "taylor":
        reader: Any = model.get_submodule(block.reader)
        return _rated(_by_unit(_taylor(reader.weight), block.inputs, block.size), importance)
    total = torch.zeros(block.size)
    for key, place in block.places.items():
        value = model.get_parameter(key) if key in dict(model.named_parameters()) else None
        if value is not None and value.dim() > 1 and place.axis == 0:
            total += _by_unit(value.abs() if importance == "l1" else value.square(), place, block.size)
    return _rated(total, importance)


def _by_unit(values: Tensor, place: Place, size: int) -> Tensor:
    """Return the sum of the entries of each unit."""
    sums = values.detach().float().cpu().movedim(place.axis, 0).flatten(1).sum(1)
    return torch.zeros(size).scatter_add_(0, torch.tensor(place.units), sums)


def _rated(total: Tensor, importance: Importance) -> Tensor:
    """Return how much each channel is worth among all: norms relative to their layer's mean."""
    if importance == "taylor":
        return total.abs()
    if importance == "l2":
        total = total.sqrt()
    return total / total.mean().clamp_min(1e-12)


def _values(module: Any, handler: str, importance: Importance) -> Tensor | None:
    """Return what one layer adds to its output channels' scores; ``None`` when it only reads the channels."""
    if isinstance(module, _NORMS) and module.affine:
        if importance == "bn":
            return module.weight.abs()
        return _taylor(module.weight) + _taylor(module.bias) if importance == "taylor" else None
    if importance == "bn" or not _makes_channels(module, handler):
        return None
    if importance == "taylor":
        total = by_output(module, _taylor(module.weight)).flatten(1).sum(1)
        return total if module.bias is None else total + _taylor(module.bias)
    rows = by_output(module, module.weight).flatten(1)
    return rows.abs().sum(1) if importance == "l1" else rows.square().sum(1)


def _makes_channels(module: Any, handler: str) -> bool:
    return isinstance(module, PRUNABLE) and handler == "prune_out_channels"


def _taylor(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    return torch.zeros_like(parameter) if gradient is None else (parameter * gradient).detach()
