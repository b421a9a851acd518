"""Set single weights to zero and keep them there, on top of torch.nn.utils.prune: magnitude, LAMP, random."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from torchshrink.errors import RecipeError
from torchshrink.prune.layers import Layer, checked, inner_layers, keep_zeros, prunable_layers, remove
from torchshrink.settings import Scope, check

Score = Callable[[Tensor], Tensor]


def magnitude(
    model: nn.Module, amount: float, scope: Scope = "global", ignore: Sequence[str] | None = None
) -> nn.Module:
    """Mask the smallest weights of ``model``, in place, until ``amount`` of all are zero.

    Weights that are zero already count, so calling it again with a greater ``amount`` prunes further. The masks are
    those of `torch.nn.utils.prune`: forward and training respect them, `remove` makes them permanent.

    Args:
        model: Any module; the weights of its convolutions (transposed ones too) and linear layers are pruned.
        amount: The sparsity to reach, in [0, 1).
        scope: ``"global"`` compares weights across layers and reaches at least ``amount``; ``"layer"`` prunes every
            layer to the nearest whole number of weights.
        ignore: Layers to leave alone: names, types, or patterns of either. By default none for ``"global"``, which
            spares layers of large weights by itself, and the first and the last one for ``"layer"``.

    Returns:
        ``model`` itself.

    Raises:
        RecipeError: When an argument is out of range or nothing can be pruned.

    Source: Han et al., arXiv:1506.02626.

    >>> model = magnitude(nn.Linear(10, 10), 0.8)
    >>> int((model.weight == 0).sum())
    80
    """
    check("scope", scope, Scope)
    if scope == "global":
        return _globally(model, amount, prunable_layers(model, ignore or ()), torch.abs)
    layers = inner_layers(model, ignore)
    checked(model, layers, amount)
    return by_layer(model, dict.fromkeys(layers, amount))


def lamp(model: nn.Module, amount: float, ignore: Sequence[str] | None = None) -> nn.Module:
    """Mask weights by their layer-adaptive magnitude, in place, until ``amount`` of all are zero.

    A weight's score is its square over the sum of all squares of its layer that are not smaller: what pruning it
    costs the layer when the smaller ones are gone. The largest weight of a layer scores 1, so no layer dies out.
    Arguments, result and errors are those of `magnitude` with ``scope="global"``.

    Source: Lee et al., arXiv:2010.07611, equation 4.
    """
    return _globally(model, amount, prunable_layers(model, ignore or ()), _lamp_scores)


def random(model: nn.Module, amount: float, seed: int = 0, ignore: Sequence[str] | None = None) -> nn.Module:
    """Mask weights at random, in place, until ``amount`` of all are zero: what every method must beat.

    Arguments, result and errors are those of `magnitude` with ``scope="global"``; ``seed`` decides which weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def scores(weight: Tensor) -> Tensor:
        drawn = torch.rand(weight.shape, generator=generator).to(weight.device) + 1
        return drawn.masked_fill(weight == 0, 0)  # what is pruned already stays so

    return _globally(model, amount, prunable_layers(model, ignore or ()), scores)


def by_layer(model: nn.Module, amounts: Mapping[str, float]) -> nn.Module:
    """Mask the smallest weights of each named layer, in place, to a sparsity of its own. Returns ``model``.

    Args:
        model: Any module.
        amounts: Sparsity in [0, 1) by layer name, reached to the nearest whole number of weights.

    Raises:
        RecipeError: When a name is no prunable layer's, or an amount is out of range.
    """
    layers = prunable_layers(model)
    for name, amount in amounts.items():
        if name not in layers:
            raise RecipeError(f"{name!r} is no layer that can be pruned; there are {', '.join(layers)}")
        checked(model, layers, amount)
    remove(model)
    for name, amount in amounts.items():
        torch_prune.l1_unstructured(layers[name], "weight", round(amount * layers[name].weight.numel()))
    return keep_zeros(model)


def _globally(model: nn.Module, amount: float, layers: dict[str, Layer], score: Score) -> nn.Module:
    """Mask what scores least over all layers, so many that the sparsity is at least ``amount``."""
    checked(model, layers, amount)
    remove(model)
    size = sum(layer.weight.numel() for layer in layers.values())
    count = min(math.ceil(round(amount * size, 6)), size - 1)  # 0.1 * 30 is 3.0000000000000004
    parameters = [(layer, "weight") for layer in layers.values()]
    scores = {(layer, "weight"): score(layer.weight.detach()) for layer in layers.values()}
    torch_prune.global_unstructured(parameters, torch_prune.L1Unstructured, importance_scores=scores, amount=count)
    return keep_zeros(model)


def _lamp_scores(weight: Tensor) -> Tensor:
    squares, order = weight.flatten().float().square().sort()
    remaining = squares.flip(0).cumsum(0).flip(0)  # of this weight and all that are larger
    scores = torch.empty_like(squares)
    scores[order] = squares / remaining.clamp_min(torch.finfo(squares.dtype).tiny)
    return scores.view_as(weight)
