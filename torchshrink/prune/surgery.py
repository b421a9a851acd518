"""Take channels out of layers, or out of what layers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from torchshrink.model.attention import take_heads
from torchshrink.model.resize import note

# Layers with as many channels out as in, and what they call their number.
_PASSING: dict[type[nn.Module], str] = {
    _BatchNorm: "num_features",
    _InstanceNorm: "num_features",
    nn.GroupNorm: "num_channels",
    nn.LayerNorm: "normalized_shape",
    nn.PReLU: "num_parameters",
    nn.Embedding: "embedding_dim",
}


@dataclass
class Cut:
    """Channels that one layer, parameter or buffer loses.

    Attributes:
        axis: Of a parameter or buffer that belongs to no layer of a known kind.
        out: Those that it makes or passes on.
        into: Those that it only reads.
        sizes: What a module of another kind is to call the sizes that it has then, by the attributes' names.
    """

    axis: int = -1
    out: set[int] = field(default_factory=set)
    into: set[int] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, other: Cut) -> None:
        """Take over what else is lost."""
        self.out |= other.out
        self.into |= other.into
        self.sizes |= other.sizes


def is_cuttable(layer: Any) -> bool:
    """Whether a layer, or a parameter that belongs to none, is of a kind that can lose channels."""
    if isinstance(layer, nn.LayerNorm):
        return len(layer.normalized_shape) == 1
    if is_depthwise(layer):
        return bool(layer.in_channels == layer.out_channels)
    return isinstance(layer, (_ConvNd, nn.Linear, nn.Parameter, *_PASSING))


def is_depthwise(layer: Any) -> bool:
    """Whether a convolution makes one channel per group."""
    return isinstance(layer, _ConvNd) and layer.groups == layer.out_channels > 1


@torch.no_grad()
def remove_channels(model: nn.Module, cuts: Mapping[str, Cut]) -> None:
    """Make the layers of ``model`` smaller, in place."""
    modules = dict(model.named_modules())
    for name, cut in cuts.items():
        layer: Any = modules.get(name)
        if cut.sizes:
            _rename_sizes(model, name, cut.sizes)
        elif isinstance(layer, _ConvNd | nn.Linear):
            _shrink_weighted(layer, cut)
        elif layer is not None:
            _shrink_passing(layer, cut)
        else:
            owner, _, key = name.rpartition(".")
            _shrink_tensor(modules[owner], key, cut)


@torch.no_grad()
def silence_channels(model: nn.Module, cuts: Mapping[str, Cut]) -> None:
    """Set what reads those channels of ``model`` to zero, in place: they make no difference then."""
    modules = dict(model.named_modules())
    for name, cut in cuts.items():
        layer: Any = modules.get(name)
        if not isinstance(layer, _ConvNd | nn.Linear):
            continue
        axis, size = (0, layer.weight.shape[0]) if _is_transposed(layer) else (1, layer.weight.shape[1])
        read = sorted(index for index in cut.into if index < size)  # the same in every group of a convolution
        layer.weight.index_fill_(axis, torch.tensor(read, dtype=torch.long, device=layer.weight.device), 0)


def _shrink_weighted(layer: Any, cut: Cut) -> None:
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    out = _others(getattr(layer, f"out_{kind}"), cut.out)
    into = _others(getattr(layer, f"in_{kind}"), cut.out if is_depthwise(layer) else cut.into)
    rows, columns = (into, out) if _is_transposed(layer) else (out, into)
    _keep(layer, "weight", 0, rows)
    if is_depthwise(layer):
        layer.groups = len(out)
    else:  # this axis has the channels of the first group of a convolution; the same ones go in every group
        _keep(layer, "weight", 1, [index for index in columns if index < layer.weight.shape[1]])
    if layer.bias is not None:
        _keep(layer, "bias", 0, out)
    setattr(layer, f"out_{kind}", len(out))
    setattr(layer, f"in_{kind}", len(into))


def _shrink_passing(layer: Any, cut: Cut) -> None:
    attribute = next(name for kind, name in _PASSING.items() if isinstance(layer, kind))
    before = getattr(layer, attribute)
    is_shape = isinstance(before, tuple)
    kept = _others(before[-1] if is_shape else before, cut.out)
    if before == 1:  # one parameter for all channels
        return
    setattr(layer, attribute, (*before[:-1], len(kept)) if is_shape else len(kept))
    for key, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        if value.dim() > 0:
            _keep(layer, key, -1, kept)


def _shrink_tensor(module: Any, key: str, cut: Cut) -> None:
    kept = _others(getattr(module, key).shape[cut.axis], cut.out)
    _keep(module, key, cut.axis, kept)
    if isinstance(module, nn.RMSNorm):
        module.normalized_shape = (len(kept),)
    if key in module._buffers:  # a checkpoint has to hold what the module's own code would make in another size
        module._non_persistent_buffers_set.discard(key)
        note(module, [key])


def _rename_sizes(model: nn.Module, name: str, sizes: Mapping[str, int]) -> None:
    module: Any = model.get_submodule(name)
    if isinstance(module, nn.MultiheadAttention):
        take_heads(model, name, sizes["num_heads"])
        return
    for key, value in sizes.items():
        setattr(module, key, value)
    note(module, sizes)


def _others(size: int, removed: set[int]) -> list[int]:
    return [index for index in range(size) if index not in removed]


def _keep(module: nn.Module, key: str, axis: int, indices: list[int]) -> None:
    value = getattr(module, key)
    kept = value.detach().index_select(axis, torch.tensor(indices, device=value.device))
    is_parameter = isinstance(value, nn.Parameter)
    setattr(module, key, nn.Parameter(kept, requires_grad=value.requires_grad) if is_parameter else kept)


def _is_transposed(layer: Any) -> bool:
    return bool(getattr(layer, "transposed", False))
