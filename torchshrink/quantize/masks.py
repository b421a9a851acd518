"""Scores of attention, and masks: no int8 range has room for numbers as good as minus infinity beside real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from torchshrink.quantize.operators import role

aten = torch.ops.aten

_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_RESHAPED = (aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.contiguous.default)
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


@torch.no_grad()
def drop_idle(graph: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Leave out, in place, masks that are zero whatever the inputs hold: what reads one would stay float.

    Attention without padding adds such to its scores.
    """
    values: dict[Node, Any] = dict(zip(graph.graph.find_nodes(op="placeholder"), inputs, strict=False))
    fixed: set[Node] = set()
    for node in graph.graph.nodes:
        is_size = node.target is aten.sym_size.int
        if (
            node.op == "call_function"
            and (is_size or fixed.issuperset(node.all_input_nodes))
            and _is_known(node, values)
        ):
            fixed.add(node)
            values[node] = node.target(*map_arg(node.args, values.get), **map_arg(node.kwargs, values.get))
    for node in list(graph.graph.nodes):
        given = list(node.args[:2]) if node.target in (aten.add.Tensor, aten.add_.Tensor) else []
        for mask, kept in (given, given[::-1]) if len(given) == 2 else ():
            if (
                mask in fixed
                and isinstance(kept, Node)
                and kept not in fixed
                and _adds_nothing(values[mask], kept, node)
            ):
                node.replace_all_uses_with(kept)
                graph.graph.erase_node(node)
                break
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _is_known(node: Node, values: Mapping[Node, Any]) -> bool:
    """Return whether a node computes the same again, from what is known."""
    is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return not is_random and not node.is_impure() and all(each in values for each in node.all_input_nodes)


def _adds_nothing(value: Any, kept: Node, total: Node) -> bool:
    before, after = kept.meta["val"], total.meta["val"]
    is_same = before.dtype == after.dtype and str(before.shape) == str(after.shape)
    return is_same and isinstance(value, Tensor) and not bool(value.any())


def scores(graph: GraphModule) -> set[Node]:
    """Return what computes a tensor that nobody reads but a softmax over its last dimension, as its rows."""
    found = set()
    for node in graph.graph.nodes:
        source = node.args[0] if node.target in _SOFTMAX and _is_last(node) else None
        while source is not None and source.target in _RESHAPED and _is_inner(source):
            source = source.args[0]
        if source is not None and source.op == "call_function" and len(source.users) == 1:
            found.add(source)
    return found


def _is_last(node: Node) -> bool:
    dim: Any = node.args[1]
    return bool(dim % node.meta["val"].dim() == node.meta["val"].dim() - 1)


def _is_inner(node: Node) -> bool:
    """Return whether a new shape has the rows of the old one, and one reader."""
    source: Any = node.args[0]
    return len(node.users) == 1 and bool(source.meta["val"].shape[-1] == node.meta["val"].shape[-1])


def _is_extreme(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool((value.abs() >= _ENDLESS).any())


def _is_endless(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) >= _ENDLESS


def _passes(node: Node) -> bool:
    return _name(node) in _BETWEEN or role(node) in ("moved", "joined")


def _name(node: Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0].rstrip("_")
