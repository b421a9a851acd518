"""Fold the BatchNorms of a graph into its convolutions: after training for quantization, or before it in float layers.

torchao does the first too, but traces about a hundred patterns to find them, which takes far longer than all the rest;
and of a layer that stays float it would leave the arithmetic in the graph.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

aten = torch.ops.aten

_TRANSPOSED: dict[Any, int] = {aten.conv_transpose1d.default: 6, aten.conv_transpose2d.input: 6}  # where ``groups`` is
_FOLDED = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, *_TRANSPOSED}


@torch.no_grad()
def fold_trained_norms(graph: GraphModule) -> None:
    """Write every ``norm(convolution(x, quantize(weight * factor)) / factor)`` as one convolution, in place.

    The weights that are quantized stay what they were in training, to the bit; statistics and shift become the bias.

    Source: Jacob et al., arXiv:1712.05877, section 3.2.
    """
    for norm in graph.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        _fold(graph, norm)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _fold(graph: GraphModule, norm: Node) -> None:
    quotient, bias = _without_bias(norm.args[0])
    if quotient.target is not aten.div.Tensor:
        return  # it follows something else than a convolution, and stays an operation of its own
    convolution: Any = quotient.args[0]
    quantizer: Any = convolution.args[1]
    product: Any = quantizer.args[0] if quantizer.op == "call_module" else quantizer
    _, _, shift, mean, *_ = norm.args
    factor: Any = product.args[1].args[0]
    values = _Values(graph)
    offset = -values(mean) if bias is None else values(bias) - values(mean)
    arguments = list(convolution.args) + [None] * (3 - len(convolution.args))
    with graph.graph.inserting_before(convolution):
        arguments[2] = _constant(graph, f"{convolution.name}_bias", values(shift) + offset * values(factor))
    with graph.graph.inserting_before(quantizer):
        weight = _constant(graph, f"{convolution.name}_weight", values(product))
    product.replace_all_uses_with(weight)
    arguments[1] = weight if quantizer is product else quantizer
    convolution.args = tuple(arguments)
    norm.replace_all_uses_with(convolution)
    graph.graph.erase_node(norm)


def _without_bias(source: Any) -> tuple[Any, Node | None]:
    """Return the quotient of a convolution, and the bias that is added to it."""
    return (source.args[0], source.args[1].args[0]) if source.target is aten.add.Tensor else (source, None)


class _Values:
    """What the nodes compute that depend on parameters and buffers only, as the graph computes it."""

    def __init__(self, graph: GraphModule) -> None:
        self._graph = graph

    def __call__(self, node: Any) -> Any:
        if not isinstance(node, Node):
            return node
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        return node.target(*(self(argument) for argument in node.args))  # type: ignore[operator]

    def _attribute(self, target: str) -> Tensor:
        module, _, name = target.rpartition(".")
        tensor: Tensor = getattr(self._graph.get_submodule(module), name)
        return tensor


def _constant(graph: GraphModule, name: str, value: Tensor) -> Node:
    graph.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return graph.graph.get_attr(name)


@torch.no_grad()
def fold_batch_norms(graph: GraphModule, kept: Set[Node]) -> None:
    """Write ``norm(convolution(x))`` as one convolution, in place, for the convolutions in ``kept``.

    Their statistics do not move any more. Weights that several operations share are left alone.
    """
    for norm in list(graph.graph.nodes):
        source = norm.args[0] if norm.target is aten.batch_norm.default and norm in kept else None
        if isinstance(source, Node) and _can_fold(source):
            _fold_into(graph, source, norm)
            norm.replace_all_uses_with(source)
            graph.graph.erase_node(norm)
    graph.recompile()


def _can_fold(convolution: Node) -> bool:
    groups = _TRANSPOSED.get(convolution.target)
    is_grouped = groups is not None and len(convolution.args) > groups and convolution.args[groups] != 1
    shared = [node for node in convolution.args[1:3] if isinstance(node, Node) and len(node.users) > 1]
    return convolution.target in _FOLDED and len(convolution.users) == 1 and not is_grouped and not shared


def _fold_into(graph: GraphModule, convolution: Node, norm: Node) -> None:
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
