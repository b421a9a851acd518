"""Zeros in patterns that hardware skips: n of every m weights, or whole blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from torchshrink.errors import RecipeError
from torchshrink.prune.layers import Layer, by_output, checked, inner_layers, keep_zeros, remove


def n_m(model: nn.Module, n: int = 2, m: int = 4, ignore: Sequence[str] | None = None) -> nn.Module:
    """Mask the ``n`` smallest of every ``m`` successive weights of an output channel, in place.

    Successive are the input channels at one kernel position, then the next position: the order in which sparse matrix
    units read (2:4 on NVIDIA's). What is left over at the end of a row stays dense.

    Args:
        model: Any module.
        n: Zeros in every group, in [0, m).
        m: Weights in a group.
        ignore: Layers to leave alone, as in `magnitude`; by default the first and the last.

    Returns:
        ``model`` itself.

    Raises:
        RecipeError: When ``n`` and ``m`` make no pattern, or no layer has ``m`` weights in a row.

    Source: Mishra et al., arXiv:2104.08378.
    """
    if not 0 <= n < m:
        raise RecipeError(f"n={n}, m={m}: n of every m weights become zero, so 0 <= n < m")
    layers = inner_layers(model, ignore)
    checked(model, layers, n / m)
    layers = {name: layer for name, layer in layers.items() if _rows(layer).shape[1] >= m}
    if not layers:
        raise RecipeError(f"no layer of {type(model).__name__} has {m} weights in a row to prune {n} of")
    remove(model)
    for layer in layers.values():
        rows = _rows(layer)
        whole = rows.shape[1] // m * m
        groups = rows[:, :whole].abs().reshape(rows.shape[0], -1, m)
        mask = torch.ones_like(rows)
        smallest = groups.argsort(dim=2, stable=True)[..., :n]
        mask[:, :whole] = torch.ones_like(groups).scatter(2, smallest, 0).reshape(rows.shape[0], whole)
        torch_prune.custom_from_mask(layer, "weight", _unrows(mask, layer))
    return keep_zeros(model)


def block(
    model: nn.Module, amount: float, shape: tuple[int, int] = (1, 4), ignore: Sequence[str] | None = None
) -> nn.Module:
    """Mask the blocks of smallest mean magnitude, in place, until ``amount`` of the weights are zero.

    Blocks are compared across layers. They lie in the matrix ``[output channels, kernel positions x input channels]``
    that a convolution multiplies with; blocks at its edges may be smaller.

    Args:
        model: Any module.
        amount: The sparsity to reach, in [0, 1); the last block may go beyond it.
        shape: Output channels and successive inputs of a block, such as ``(1, 4)`` or ``(4, 1)``.
        ignore: Layers to leave alone, as in `magnitude`; by default the first and the last.

    Returns:
        ``model`` itself.

    Raises:
        RecipeError: When an argument is out of range or nothing can be pruned.

    Source: Narang et al., arXiv:1711.02782.
    """
    if min(shape) < 1:
        raise RecipeError(f"shape={shape}: a block has at least one row and one column")
    layers = inner_layers(model, ignore)
    checked(model, layers, amount)
    remove(model)
    scored = [_block_scores(_rows(layer), shape) for layer in layers.values()]
    scores = torch.cat([score.flatten() for score, _ in scored])
    sizes = torch.cat([size.flatten() for _, size in scored])
    order = scores.argsort(stable=True)
    goes = sizes[order].cumsum(0) - sizes[order] < round(amount * float(sizes.sum()), 6)
    kept = torch.ones_like(scores)
    kept[order[goes]] = 0
    kept[order[-1]] = 1  # never all of them
    for layer, part in zip(layers.values(), torch.split(kept, [score.numel() for score, _ in scored]), strict=True):
        rows = _rows(layer)
        across, down = -(-rows.shape[1] // shape[1]), -(-rows.shape[0] // shape[0])
        mask = part.reshape(down, across).repeat_interleave(shape[0], 0).repeat_interleave(shape[1], 1)
        mask = mask[: rows.shape[0], : rows.shape[1]]
        torch_prune.custom_from_mask(layer, "weight", _unrows(mask, layer))
    return keep_zeros(model)


def _block_scores(rows: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return mean magnitude and number of weights of every block."""
    height, width = rows.shape
    padding = (0, -width % shape[1], 0, -height % shape[0])

    def sums(values: Tensor) -> Tensor:
        padded = nn.functional.pad(values, padding)
        down, across = padded.shape[0] // shape[0], padded.shape[1] // shape[1]
        return padded.reshape(down, shape[0], across, shape[1]).sum((1, 3))

    size = sums(torch.ones_like(rows))
    return sums(rows.abs()) / size, size


def _rows(layer: Layer) -> Tensor:
    """Return a layer's weights as ``[output channels, kernel positions x input channels]``."""
    return _channels_last(layer).flatten(1)


def _unrows(rows: Tensor, layer: Layer) -> Tensor:
    """Undo `_rows`."""
    return by_output(layer, rows.reshape(_channels_last(layer).shape).movedim(-1, 1)).contiguous()


def _channels_last(layer: Layer) -> Tensor:
    return by_output(layer, layer.weight.detach()).movedim(1, -1)
