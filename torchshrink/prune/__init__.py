"""Make models sparse (weights set to zero and kept there) or slim (channels removed)."""

from torchshrink.prune.channels import channels, roots
from torchshrink.prune.clusters import Clusters, cluster
from torchshrink.prune.layers import keep_zeros, prunable_layers, remove, sparsity
from torchshrink.prune.patterns import block, n_m
from torchshrink.prune.schedule import Schedule
from torchshrink.prune.weights import by_layer, lamp, magnitude, random
from torchshrink.settings import Scope

__all__ = [
    "Clusters",
    "Schedule",
    "Scope",
    "block",
    "by_layer",
    "channels",
    "cluster",
    "keep_zeros",
    "lamp",
    "magnitude",
    "n_m",
    "prunable_layers",
    "random",
    "remove",
    "roots",
    "sparsity",
]
