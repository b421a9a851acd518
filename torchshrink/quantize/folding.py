"""Fold the BatchNorm of a layer that stays float into its weights before training.

torchao folds it only where the weights are quantized; elsewhere it would leave its arithmetic in the graph.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
_TRANSPOSED: dict[Any, int] = {aten.conv_transpose1d.default: 6, aten.conv_transpose2d.input: 6}  # where ``groups`` is
_FOLDED = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, *_TRANSPOSED}


@torch.no_grad()
def fold_batch_norms(graph: GraphModule, kept: Set[Node]) -> None:
    """Write ``norm(convolution(x))`` as one convolution, in place, for the convolutions in ``kept``.

    Their statistics do not move any more. Weights that several operations share are left alone.
    """
    for norm in list(graph.graph.nodes):
        source = norm.args[0] if norm.target is aten.batch_norm.default and norm in kept else None
        if isinstance(source, Node) and _can_fold(source):
            _fold(graph, source, norm)
            norm.replace_all_uses_with(source)
            graph.graph.erase_node(norm)
    graph.recompile()


def _can_fold(convolution: Node) -> bool:
    groups = _TRANSPOSED.get(convolution.target)
    is_grouped = groups is not None and len(convolution.args) > groups and convolution.args[groups] != 1
    shared = [node for node in convolution.args[1:3] if isinstance(node, Node) and len(node.users) > 1]
    return convolution.target in _FOLDED and len(convolution.users) == 1 and not is_grouped and not shared


def _fold(graph: GraphModule, convolution: Node, norm: Node) -> None:
    _, gain, shift, mean, variance, _, _, eps, *_ = norm.args
    values: dict[Any, Any] = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    factor = values[gain.target] * torch.rsqrt(values[variance.target] + eps)  # type: ignore[union-attr]
    arguments = list(convolution.args) + [None] * (3 - len(convolution.args))
    weight, bias = values[arguments[1].target], arguments[2]  # type: ignore[union-attr]
    shape = [1] * weight.dim()
    shape[1 if convolution.target in _TRANSPOSED else 0] = -1
    weight.mul_(factor.reshape(shape))
    offset = values[mean.target] if bias is None else values[mean.target] - values[bias.target]  # type: ignore[union-attr]
    values[shift.target].sub_(offset * factor)  # type: ignore[union-attr]
    arguments[2] = shift
    convolution.args = tuple(arguments)
