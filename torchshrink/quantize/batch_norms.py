"""Fold the BatchNorms of a graph that was trained for quantization into its convolutions.

torchao does that too, but traces about a hundred patterns to find them, which takes far longer than all the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

aten = torch.ops.aten


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
