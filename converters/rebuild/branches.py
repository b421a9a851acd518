"""If: the branch that shapes and constants choose takes its place, as exporters write a squeeze of a size of 1."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import AttributeProto, GraphProto, NodeProto, helper

from torchshrink.converters.onnx_file import attribute
from torchshrink.converters.rebuild.node import Node


def chosen(node: Node) -> list[NodeProto]:
    """Return the operations of the branch that is taken; what they call their tensors begins with the node's output.

    Source: https://onnx.ai/onnx/operators/onnx__If.html

    Raises:
        UnsupportedOpError: When the branch depends on data.
    """
    if not node.is_constant:
        raise node.refusal(f"chooses its branch by {node.proto.input[0]!r}, which is computed from data")
    graph: GraphProto = attribute(node.proto, "then_branch" if bool(node.value().all()) else "else_branch")
    made = [item.name for item in graph.initializer] + [key for each in graph.node for key in each.output if key]
    inner = {key: f"{node.proto.output[0]}/{key}" for key in made}
    constants = [helper.make_node("Constant", [], [inner[item.name]], value=item) for item in graph.initializer]
    results = [
        helper.make_node("Identity", [inner.get(item.name, item.name)], [key])
        for item, key in zip(graph.output, node.proto.output, strict=True)
    ]
    return [*constants, *(_renamed(each, inner) for each in graph.node), *results]


def read(node: NodeProto) -> list[str]:
    """Return the tensors that a node reads, its branches' among them."""
    graphs = [item.g for item in node.attribute if item.type == AttributeProto.GRAPH]
    return [*node.input, *(key for graph in graphs for each in graph.node for key in read(each))]


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """Return a node with other names for tensors, also where its own branches read them."""
    found = NodeProto()
    found.CopyFrom(node)
    found.input[:] = [names.get(key, key) for key in node.input]
    found.output[:] = [names.get(key, key) for key in node.output]
    for item in found.attribute:
        if item.type == AttributeProto.GRAPH:
            renamed = [_renamed(each, names) for each in item.g.node]
            del item.g.node[:]
            item.g.node.extend(renamed)
            for output in item.g.output:
                output.name = names.get(output.name, output.name)
    return found
