"""Share a few values among the weights of every layer, and keep them shared while training: they compress well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from torchshrink.errors import RecipeError
from torchshrink.prune.layers import check_plain, inner_layers

MOST = 256  # distinct values in a layer, as many as int8 has codes


class Clusters:
    """The values that weights of a module share: call `apply` after every optimizer step, and they stay shared.

    Args:
        module: Holds the parameters, of any shape; it may be moved to another device.
        names: Of its parameters. Weights of one that are equal now are equal from then on.

    Source: Han et al., arXiv:1510.00149, section 3.3. There the updates of equal weights are summed (equation 3); here
    they are averaged, so that any optimizer works, with the learning rate that suits the other parameters too.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self._module = module
        self._shared = {name: _Shared(module.get_parameter(name)) for name in names}

    @classmethod
    def find(cls, module: nn.Module, limit: int = MOST) -> Clusters:
        """Return the clusters of a module that was clustered before, none when it was not.

        A parameter of two or more dimensions counts as clustered when it has from 2 to ``limit`` distinct values, fewer
        than elements. Find them after `torchshrink.prune.keep_zeros`, which replaces parameters.
        """

        def is_clustered(value: Tensor) -> bool:
            most = min(limit, value.numel() - 1)
            return value.dim() > 1 and value.is_floating_point() and 2 <= len(torch.unique(value.detach())) <= most

        return cls(module, [name for name, value in module.named_parameters() if is_clustered(value)])

    @property
    def counts(self) -> dict[str, int]:
        """How many distinct values each clustered parameter has, zero included, by its name."""
        return {name: len(shared.values) for name, shared in self._shared.items()}

    @torch.no_grad()
    def apply(self) -> None:
        """Set every weight to the mean of its cluster, in place; zeros go back to exactly 0.0."""
        for name, shared in self._shared.items():
            shared.apply(self._module.get_parameter(name))


@torch.no_grad()
def cluster(model: nn.Module, count: int = 16, ignore: Sequence[str] | None = None) -> Clusters:
    """Set every weight of ``model`` to one of at most ``count`` values of its layer; return what keeps them shared.

    Works in place. The values are those of k-means, started from evenly spaced ones, so that large weights keep values
    of their own. Zeros stay zero and are one of the values. Layers with no more distinct weights stay as they are.

    Args:
        model: Any module; the weights of its convolutions (transposed ones too) and linear layers are clustered.
        count: Distinct weights per layer, zero included, in [2, 256].
        ignore: Layers to leave alone, as in `magnitude`; by default the first and the last.

    Raises:
        RecipeError: When ``count`` is out of range, nothing can be clustered, or pruning is not permanent yet.

    Source: Han et al., arXiv:1510.00149, sections 3.1 and 3.2.

    >>> layer = nn.Linear(100, 100)
    >>> cluster(layer, 16).counts
    {'weight': 16}
    """
    if not 2 <= count <= MOST:
        raise RecipeError(f"count={count}: a layer can share from 2 to {MOST} distinct weights")
    if any(hasattr(module, "weight_mask") for module in model.modules()):
        raise RecipeError(f"{type(model).__name__} is masked: make its pruning permanent, torchshrink.prune.remove")
    layers = inner_layers(model, ignore)
    if not layers:
        raise RecipeError(f"{type(model).__name__} has no convolution or linear layer to cluster")
    check_plain(layers)
    for layer in layers.values():
        weight = layer.weight.detach().cpu().double().contiguous()
        is_zero = weight == 0
        if not is_zero.all():
            centroids = _centroids(weight[~is_zero].sort().values, count - int(is_zero.any()))
            layer.weight.copy_(centroids[torch.bucketize(weight, _borders(centroids))].masked_fill(is_zero, 0))
    return Clusters(model, [f"{name}.weight".lstrip(".") for name in layers])


def _centroids(values: Tensor, count: int) -> Tensor:
    """Return at most ``count`` centroids of sorted values by Lloyd's algorithm; empty clusters stay where they are."""
    distinct: Tensor = torch.unique_consecutive(values)
    if len(distinct) <= count:
        return distinct
    sums = nn.functional.pad(values.cumsum(0), (1, 0))
    centroids = torch.linspace(float(values[0]), float(values[-1]), count, dtype=values.dtype)
    for _ in range(1000):  # hardly anything moves by then
        edges = torch.tensor([0, *torch.searchsorted(values, _borders(centroids), right=True).tolist(), len(values)])
        sizes = edges.diff()
        means = torch.where(sizes > 0, sums[edges].diff() / sizes, centroids)
        if torch.equal(means, centroids):
            break
        centroids = means
    return centroids


def _borders(centroids: Tensor) -> Tensor:
    return (centroids[1:] + centroids[:-1]) / 2


class _Shared:
    """Which elements of one tensor share which value."""

    def __init__(self, weight: Tensor) -> None:
        values, self.labels, sizes = torch.unique(weight.detach(), return_inverse=True, return_counts=True)
        self.values = values + 0.0  # not -0.0
        self.sizes = sizes.to(values.dtype).masked_fill(values == 0, math.inf)  # so that zero never moves

    def apply(self, weight: Tensor) -> None:
        """Move each value by the mean of what its elements moved by: sums of whole weights would lose digits."""
        self.values, self.labels, self.sizes = (t.to(weight.device) for t in (self.values, self.labels, self.sizes))
        moves = weight - self.values[self.labels]
        self.values += torch.zeros_like(self.values).index_add_(0, self.labels.flatten(), moves.flatten()) / self.sizes
        weight.copy_(self.values[self.labels])
