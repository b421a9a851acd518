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
_CHUNK = 2**22  # weights looked at in one go


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
    """Mask what scores least over all layers, so many that the sparsity is at least ``amount``.

    torch.nn.utils.prune.global_unstructured would need 8 bytes of index for every weight, and several copies.
    """
    checked(model, layers, amount)
    remove(model)
    sizes = [layer.weight.numel() for layer in layers.values()]
    count = min(math.ceil(round(amount * sum(sizes), 6)), sum(sizes) - 1)  # 0.1 * 30 is 3.0000000000000004
    kept = _all_but_least(_all_scores(layers, score), count)
    for layer, mask in zip(layers.values(), torch.split(kept, sizes), strict=True):
        _Masked.apply(layer, "weight", mask.view_as(layer.weight).to(layer.weight.device))  # type: ignore[no-untyped-call]
    return keep_zeros(model)


def _all_scores(layers: dict[str, Layer], score: Score) -> Tensor:
    """Return the scores of all weights, layer after layer."""
    double = any(layer.weight.dtype == torch.float64 for layer in layers.values())
    sizes = [layer.weight.numel() for layer in layers.values()]
    found = torch.empty(sum(sizes), dtype=torch.float64 if double else torch.float32)
    for part, layer in zip(torch.split(found, sizes), layers.values(), strict=True):
        part.copy_(score(layer.weight.detach()).flatten())
    return found


def _all_but_least(scores: Tensor, count: int) -> Tensor:
    """Return which of the scores, ``[n]``, are not among the ``count`` least; of equal ones the first go."""
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    order = scores.numpy().copy()
    order.partition(count - 1)  # numpy's partition works in place, and PyTorch's kthvalue returns an index for each
    limit = float(order[count - 1])
    del order
    kept = (scores <= limit).logical_not_()  # NaN stays
    goes = count - int((scores < limit).sum())
    for part, values in zip(torch.split(kept, _CHUNK), torch.split(scores, _CHUNK), strict=True):
        tied = (values == limit).nonzero().flatten()
        part[tied[goes:]] = True
        goes = max(goes - len(tied), 0)
    return kept


class _Masked(torch_prune.BasePruningMethod):
    """A mask that is known: `torch_prune.CustomFromMask` without its copies."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, mask: Tensor) -> None:
        self._mask: Tensor | None = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:  # noqa: ARG002  # PyTorch's names
        assert self._mask is not None
        mask, self._mask = default_mask.mul_(self._mask), None  # the layer holds it from now on
        return mask


def _lamp_scores(weight: Tensor) -> Tensor:
    squares, order = weight.flatten().float().square().sort()
    remaining = squares.flip(0).cumsum(0).flip(0)  # of this weight and all that are larger
    scores = torch.empty_like(squares)
    scores[order] = squares / remaining.clamp_min(torch.finfo(squares.dtype).tiny)
    return scores.view_as(weight)
