"""What each module of a quantized graph makes of inputs that nothing has rounded: its own share of the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from torchshrink.model.graphs import MODULES
from torchshrink.quantize import exits


@torch.no_grad()
def results(graph: GraphModule, known: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what every call of a module returns when it alone computes in int8.

    What other modules give it, those around it aside, is what they return in float. So its noise is that of its weights
    and of its result; that of the model's input counts to whom reads it, and that of operations outside of every module
    to whom reads those.

    Args:
        graph: What `convert` returned.
        known: What each call returns in float, in the shape that the graph computes.
        inputs: ``[N, C, *size]`` for each argument of the graph.
    """
    order = {node: place for place, node in enumerate(graph.graph.nodes)}
    given = dict(zip(graph.graph.find_nodes(op="placeholder"), inputs, strict=False))  # some are not read
    ends = _ends(graph, known)
    found: dict[str, Tensor] = {}
    runner = Interpreter(graph)
    for end, calls in ends.items():
        for call in (call for call in calls if call not in found):
            parts, borders = _of_call(call, end, ends)
            values = {node: given[node] if node in given else known[ends[node][0]] for node in borders}
            runner.env = dict(values)
            for node in sorted(parts, key=order.__getitem__):
                runner.env[node] = runner.run_node(node)
            found[call] = runner.env[end]
    runner.env = {}
    return found


def _ends(graph: GraphModule, known: Mapping[str, Tensor]) -> dict[Node, list[str]]:
    """Return the nodes that hold what calls return, with the calls; those that only codes stand for are left out."""
    found: dict[Node, list[str]] = {}
    for node in graph.graph.nodes:
        calls = [call for call in node.meta.get(MODULES, []) if call in known]
        for end in exits.all_seen(node) if calls else []:
            if ".quantize_per_" not in str(end.target):
                found[end] = [*found.get(end, []), *calls]
    return found


def _of_call(call: str, end: Node, ends: Mapping[Node, Sequence[str]]) -> tuple[set[Node], set[Node]]:
    """Return the operations of a call, and the values that it is given: the model's inputs, and results of others."""
    inner = f"{_path(call)}."
    parts, borders, waiting = {end}, set[Node](), [*end.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder" or not all(_path(other).startswith(inner) for other in ends.get(node, [])):
            borders.add(node)
        elif node not in parts:
            parts.add(node)
            waiting += node.all_input_nodes
    return parts, borders


def _path(call: str) -> str:
    return call.partition("@")[0]
