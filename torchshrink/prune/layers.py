"""Which layers are pruned, how sparse they are, and masks made permanent or found again."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from torchshrink.errors import RecipeError

Layer = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Linear
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


def prunable_layers(model: nn.Module, ignore: Sequence[str] = ()) -> dict[str, Layer]:
    """Return the layers whose weights can be pruned, by name.

    Args:
        model: Any module.
        ignore: Layers to leave out: names, types, or patterns of either, such as ``"encoder.0.*"`` or ``"Linear"``.

    Raises:
        RecipeError: When a pattern fits no layer at all.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE)}
    ignore = [ignore] if isinstance(ignore, str) else ignore
    for pattern in ignore:
        if not any(_fits(name, layer, pattern) for name, layer in layers.items()):
            raise RecipeError(f"ignore {pattern!r} fits no layer; there are {', '.join(layers)}")
    return {name: layer for name, layer in layers.items() if not any(_fits(name, layer, pattern) for pattern in ignore)}


def inner_layers(model: nn.Module, ignore: Sequence[str] | None) -> dict[str, Layer]:
    """Return `prunable_layers`; with ``ignore=None`` all but the first and the last, when others remain.

    The first layer sees the data and the last makes the result; both are small and suffer most from a pattern that
    takes no account of how much each layer matters.
    """
    if ignore is not None:
        return prunable_layers(model, ignore)
    layers = prunable_layers(model)
    return dict(list(layers.items())[1:-1]) or layers


def remove(model: nn.Module) -> nn.Module:
    """Make the masks permanent, in place: the weights are plain parameters again, with exact zeros. Returns it."""
    for layer in prunable_layers(model).values():
        if torch_prune.is_pruned(layer) and hasattr(layer, "weight_mask"):
            torch_prune.remove(layer, "weight")
            layer.weight.data.add_(0.0)  # a masked negative weight is -0.0: other bytes for the same number
    return model


def keep_zeros(model: nn.Module) -> nn.Module:
    """Mask the weights that are exactly zero, in place, so that more training leaves them zero. Returns the model."""
    for layer in prunable_layers(model).values():
        mask = layer.weight.detach() != 0
        if not mask.all() and not torch.equal(mask, getattr(layer, "weight_mask", torch.empty(0)) != 0):
            torch_prune.custom_from_mask(layer, "weight", mask)
    return model


def sparsity(model: nn.Module) -> float:
    """Return the share of exact zeros among the prunable weights, in [0, 1]."""
    weights: list[Tensor] = [layer.weight for layer in prunable_layers(model).values()]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / max(total, 1)


def by_output(layer: Layer, weight: Tensor) -> Tensor:
    """Return ``[output channels, input channels of one group, *kernel]``; the same function undoes it.

    Transposed convolutions store ``[input channels, output channels of one group, *kernel]``.
    """
    if not isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return weight
    parts = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return parts.transpose(1, 2).flatten(0, 1)


def checked(model: nn.Module, layers: dict[str, Layer], amount: float) -> None:
    """Refuse what no method can do.

    Raises:
        RecipeError: When ``amount`` is not in [0, 1), there is nothing to prune, or a weight is computed from others.
    """
    if not 0 <= amount < 1:
        raise RecipeError(f"amount={amount}: the share of weights to prune must be at least 0 and less than 1")
    if not layers:
        raise RecipeError(f"{type(model).__name__} has no convolution or linear layer to prune")
    check_plain(layers)


def check_plain(layers: dict[str, Layer]) -> None:
    """Refuse weights that are computed from others, which nothing can set.

    Raises:
        RecipeError: Naming the layer and what undoes it.
    """
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise RecipeError(f"{name!r} is parametrized: torch.nn.utils.parametrize.remove_parametrizations first")
        if {"weight", "weight_orig"}.isdisjoint(layer._parameters) or hasattr(layer, "weight_u"):
            raise RecipeError(
                f"the weight of {name!r} is computed from others: torch.nn.utils.remove_weight_norm, "
                "remove_spectral_norm or their like first"
            )


def _fits(name: str, layer: nn.Module, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(type(layer).__name__, pattern)
