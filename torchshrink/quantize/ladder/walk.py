"""Run a graph from layer to layer, alone or beside another of the same layers, and change weights on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from torchshrink.quantize.operators import OPERATORS, role


@dataclass
class Call:
    """A convolution or linear layer about to be computed.

    Attributes:
        node: Of the graph.
        args: Its arguments: input, weight, bias and the rest. What is put in their place is computed with instead.
        kwargs: Its named arguments.
    """

    node: Node
    args: list[Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def output(self, source: Tensor | None = None) -> Tensor:
        """Return what the layer makes of its input, or of another."""
        found: Tensor = self.node.target(self.args[0] if source is None else source, *self.args[1:], **self.kwargs)  # type: ignore[operator]
        return found

    @property
    def channels(self) -> int:
        """The dimension of its input and output that holds the channels."""
        return -1 if self.node.target is torch.ops.aten.linear.default else 1

    @property
    def axis(self) -> int:
        """The dimension of its weight that holds the output channels."""
        return OPERATORS[self.node.target].axis


@torch.no_grad()
def walk(graph: GraphModule, inputs: Sequence[Tensor]) -> Iterator[Call]:
    """Yield every weighted layer of a graph before it is computed, with arguments that may be replaced."""
    values: dict[Node, Any] = {}
    given = iter(inputs)
    last = {source: node for node in graph.graph.nodes for source in node.all_input_nodes}
    for node in graph.graph.nodes:
        if node.op == "output":
            return
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = attrgetter(str(node.target))(graph)
        else:
            args, kwargs = map_arg((node.args, node.kwargs), lambda source: values[source])
            if role(node) == "weighted":
                call = Call(node, list(args), kwargs)
                yield call
                args = call.args
            function = graph.get_submodule(str(node.target)) if node.op == "call_module" else node.target
            values[node] = function(*args, **kwargs)
        for source in node.all_input_nodes:
            if last[source] is node:
                values.pop(source, None)


def together(quantized: GraphModule, floats: GraphModule, inputs: Sequence[Tensor]) -> Iterator[tuple[Call, Call]]:
    """Yield every quantized layer with the same layer in float; what was changed in earlier ones has been computed.

    Args:
        quantized: What `torchshrink.quantize.convert` returned.
        floats: The graph that it was made of, without quantization (`torchshrink.quantize.parity`).
        inputs: ``[N, C, *size]`` for each argument.
    """
    known = {node.name for node in floats.graph.nodes}
    reference = walk(floats, inputs)
    for call in walk(quantized, inputs):
        if call.node.name in known and is_quantized(call):
            yield call, next(other for other in reference if other.node.name == call.node.name)


def is_quantized(call: Call) -> bool:
    """Return whether a layer computes with int8 input and weight."""
    return all(isinstance(source, Node) and "dequantize" in str(source.target) for source in call.node.args[:2])
