"""What is masked with numbers as good as minus infinity: no int8 range has room for them beside real ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from torchshrink.quantize.operators import role

_ENDLESS = 1e4  # from here on a softmax gives exactly nothing
_MADE = ("full", "full_like", "new_full", "scalar_tensor", "masked_fill", "where", "mul", "add", "sub", "rsub")
_BETWEEN = (*_MADE, "triu", "tril", "maximum", "minimum", "to", "_to_copy", "type_as")


def masked(graph: GraphModule) -> set[Node]:
    """Return the operations that compute or read tensors with such numbers, up to the softmax that uses them up.

    They stay float. Attention masks are of this kind: ``scores.masked_fill(mask, -inf)``, ``scores + (m - 1) * 1e9``.
    """
    constants = dict(graph.named_parameters()) | dict(graph.named_buffers())
    extreme: set[Node] = set()
    readers: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "get_attr" and _is_extreme(constants.get(str(node.target))):
            extreme.add(node)
        if node.op != "call_function":
            continue
        reads = not extreme.isdisjoint(node.all_input_nodes)
        if (_passes(node) and reads) or (_name(node) in _MADE and any(map(_is_endless, node.args))):
            extreme.add(node)
        if reads or node in extreme:
            readers.add(node)
    return readers


def _is_extreme(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool((value.abs() >= _ENDLESS).any())


def _is_endless(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) >= _ENDLESS


def _passes(node: Node) -> bool:
    return _name(node) in _BETWEEN or role(node) in ("moved", "joined")


def _name(node: Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0].rstrip("_")
